"""What is on sale, and what buyers gather of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from codebank.checkout.catalogue import CATALOGUE, Product
from codebank.runtime.postgres.pool import Connection
from codebank.wire import new_id

_PRODUCT: Final = "slug, price_minor, name_pt, name_en, about_pt, about_en"


@dataclass(frozen=True, slots=True)
class BasketLine:
    """A product in a basket, at today's price."""

    product: Product
    quantity: int


@dataclass(frozen=True, slots=True)
class Basket:
    """What a buyer has gathered."""

    basket_id: UUID
    attempt_key: UUID
    lines: tuple[BasketLine, ...]

    @property
    def total_minor(self) -> int:
        """What it costs today."""
        return sum(line.quantity * line.product.price_minor for line in self.lines)

    @property
    def count(self) -> int:
        """How many things are in it."""
        return sum(line.quantity for line in self.lines)


async def seed_products(connection: Connection) -> None:
    """Put the catalogue on sale. Safe to repeat; prices and words follow the program."""
    await connection.executemany(
        "insert into product (slug, place, price_minor, name_pt, name_en, about_pt, about_en)"
        " values ($1, $2, $3, $4, $5, $6, $7) on conflict (slug) do update set price_minor = excluded.price_minor,"
        " name_pt = excluded.name_pt, name_en = excluded.name_en, about_pt = excluded.about_pt,"
        " about_en = excluded.about_en",
        [
            (item.slug, place, item.price_minor, item.name_pt, item.name_en, item.about_pt, item.about_en)
            for place, item in enumerate(CATALOGUE, start=1)
        ],
    )


async def list_products(connection: Connection, after: str, limit: int) -> list[Product]:
    """Give products in the shop's order, those behind `after`."""
    rows = await connection.fetch(
        f"select {_PRODUCT} from product where place > coalesce((select place from product where slug = $1), 0)"
        " order by place limit $2",
        after,
        limit,
    )
    return [Product(**row) for row in rows]


async def find_products(connection: Connection, slugs: Sequence[str]) -> dict[str, Product]:
    """Find products by their slugs."""
    rows = await connection.fetch(f"select {_PRODUCT} from product where slug = any($1)", list(slugs))
    return {row["slug"]: Product(**row) for row in rows}


async def read_basket(connection: Connection, basket_id: UUID, *, lock: bool = False) -> Basket | None:
    """Read a basket, under its lock where an order is to be made of it."""
    row = await connection.fetchrow(
        f"select attempt_key from basket where basket_id = $1{' for update' if lock else ''}", basket_id
    )
    if row is None:
        return None
    lines = await connection.fetch(
        f"select quantity, {_PRODUCT} from basket_line join product on slug = product where basket_id = $1"
        " order by added_at, slug",
        basket_id,
    )
    return Basket(
        basket_id,
        row["attempt_key"],
        tuple(
            BasketLine(Product(**{key: value for key, value in line.items() if key != "quantity"}), line["quantity"])
            for line in lines
        ),
    )


async def add_basket(connection: Connection) -> UUID:
    """Make an empty basket."""
    basket_id = new_id()
    await connection.execute("insert into basket (basket_id, attempt_key) values ($1, $2)", basket_id, new_id())
    return basket_id


async def set_quantity(connection: Connection, basket_id: UUID, product: str, quantity: int) -> None:
    """Set how many of a product are in a basket; none takes it out."""
    if quantity <= 0:
        await connection.execute("delete from basket_line where (basket_id, product) = ($1, $2)", basket_id, product)
        return
    await connection.execute(
        "insert into basket_line (basket_id, product, quantity) values ($1, $2, $3)"
        " on conflict (basket_id, product) do update set quantity = excluded.quantity",
        basket_id,
        product,
        quantity,
    )


async def begin_next_attempt(connection: Connection, basket_id: UUID, *, empty: bool) -> None:
    """Give a basket a new key, so that its next payment is another one; emptied where it was paid."""
    await connection.execute("update basket set attempt_key = $2 where basket_id = $1", basket_id, new_id())
    if empty:
        await connection.execute("delete from basket_line where basket_id = $1", basket_id)
