"""Orders, and what only the shop knows of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from codebank.checkout.order import Order, OrderLine
from codebank.money import Money
from codebank.runtime.postgres.pool import Connection


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order that is to be kept."""

    order: Order
    key: str
    #: When the resolver may look at it.
    resolve_at: datetime


@dataclass(frozen=True, slots=True)
class Settled:
    """An order as it was when an answer was read, and as the answer makes it."""

    before: Order
    after: Order


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an order is left alone between two looks: a tenth of its age, within bounds."""

    #: From the order to the first look.
    first: timedelta
    least: timedelta
    most: timedelta


async def add_orders(connection: Connection, new: Sequence[NewOrder]) -> set[UUID]:
    """Keep new orders with their lines, in one statement; gives those that were added.

    One whose key made an order before is not. Several of one key are one.
    """
    # In the order of their keys, as everybody adds them: whoever adds the same at once then waits, and never each for
    # the other.
    new = sorted(new, key=lambda one: one.key)
    orders = [one.order for one in new]
    lines = [(order.order_id, place, line) for order in orders for place, line in enumerate(order.lines, start=1)]
    rows = await connection.fetch(
        "with added as (insert into orders (order_id, basket_id, idempotency_key, status, total_minor,"
        " currency, parcelas, card_masked, card_brand, created_at, resolve_at, card_expiry)"
        " select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[],"
        " $7::int[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[])"
        " on conflict (idempotency_key) do nothing returning order_id),"
        " lines as (insert into order_line (order_id, place, product, name, quantity, unit_price_minor)"
        " select line.* from unnest($13::uuid[], $14::int[], $15::text[], $16::text[], $17::int[], $18::bigint[])"
        " as line (order_id, place, product, name, quantity, unit_price_minor) join added using (order_id))"
        " select order_id from added",
        [order.order_id for order in orders],
        [order.basket_id for order in orders],
        [one.key for one in new],
        [order.status for order in orders],
        [order.total.amount_minor for order in orders],
        [order.total.currency for order in orders],
        [order.parcelas for order in orders],
        [order.card_masked for order in orders],
        [order.card_brand for order in orders],
        [order.created_at for order in orders],
        [one.resolve_at for one in new],
        [order.card_expiry for order in orders],
        [order_id for order_id, _, _ in lines],
        [place for _, place, _ in lines],
        [line.product for _, _, line in lines],
        [line.name for _, _, line in lines],
        [line.quantity for _, _, line in lines],
        [line.unit_price_minor for _, _, line in lines],
    )
    return {row["order_id"] for row in rows}


async def find_order(connection: Connection, *, order_id: UUID | None = None, key: str | None = None) -> Order | None:
    """Read an order by its id or its key."""
    row = await connection.fetchrow("select * from orders where order_id = $1 or idempotency_key = $2", order_id, key)
    if row is None:
        return None
    lines = await connection.fetch(
        "select product, name, quantity, unit_price_minor from order_line where order_id = $1 order by place",
        row["order_id"],
    )
    return _order(row, lines)


def _order(row: asyncpg.Record, lines: Sequence[asyncpg.Record]) -> Order:
    return Order(
        order_id=row["order_id"],
        status=row["status"],
        total=Money(row["total_minor"], row["currency"]),
        parcelas=row["parcelas"],
        lines=tuple(OrderLine(**line) for line in lines),
        card_masked=row["card_masked"],
        card_brand=row["card_brand"],
        created_at=row["created_at"],
        card_expiry=row["card_expiry"],
        basket_id=row["basket_id"],
        payment_id=row["payment_id"],
        decline_code=row["decline_code"],
        advice=row["advice"],
        decided_at=row["decided_at"],
        settled_at=row["settled_at"],
        tries=row["tries"],
    )


async def write_settled(connection: Connection, changes: Sequence[Settled]) -> list[bool]:
    """Write what answers made of orders, in one statement; tell of each whether it was written.

    One whose order is no longer as it was decided on is not.
    """
    after = [change.after for change in changes]
    rows = await connection.fetch(
        "update orders o set status = n.status, payment_id = n.payment_id, decline_code = n.decline_code,"
        " advice = n.advice, decided_at = n.decided_at, settled_at = n.settled_at"
        " from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::timestamptz[],"
        " $8::timestamptz[]) with ordinality"
        " as n (order_id, before, status, payment_id, decline_code, advice, decided_at, settled_at, place)"
        " where o.order_id = n.order_id and o.status = n.before returning n.place",
        [order.order_id for order in after],
        [change.before.status for change in changes],
        [order.status for order in after],
        [order.payment_id for order in after],
        [order.decline_code for order in after],
        [order.advice for order in after],
        [order.decided_at for order in after],
        [order.settled_at for order in after],
    )
    written = {row["place"] for row in rows}
    return [place in written for place in range(1, len(changes) + 1)]


async def note_try(connection: Connection, order_id: UUID) -> None:
    """Count that the bank is asked about an order once more."""
    await connection.execute("update orders set tries = tries + 1 where order_id = $1", order_id)


async def count_unresolved(connection: Connection) -> tuple[int, datetime | None]:
    """Tell how many orders have an unknown outcome, and since when the oldest of them."""
    row = await connection.fetchrow(
        "select count(*) as waiting, min(created_at) as oldest from orders where status in ('pending', 'processing')"
    )
    assert row is not None
    return row["waiting"], row["oldest"]


async def lease_unresolved(
    connection: Connection, now: datetime, patience: Patience, limit: int, under_way: Collection[UUID]
) -> list[UUID]:
    """Take orders whose outcome is unknown, but those `under_way`: no other resolver looks at them for a while.

    A clock that was set back leaves stamps ahead of now. Nobody waits for them: such an order is due, and was made now
    at the latest.
    """
    rows = await connection.fetch(
        # Materialized: a plan that looks for due orders once for each order would take more of them than asked for.
        "with due as materialized (select order_id from orders"
        " where status in ('pending', 'processing') and (resolve_at <= $1 or resolve_at > $1 + $4::interval)"
        " and order_id <> all($5) order by resolve_at limit $6 for update skip locked)"
        " update orders o set created_at = least(o.created_at, $1), tries = o.tries + 1,"
        " resolve_at = $1 + greatest($2::interval, least($3::interval, ($1 - o.created_at) / 10))"
        " from due where o.order_id = due.order_id returning o.order_id",
        now,
        patience.least,
        patience.most,
        max(patience.first, patience.most),
        list(under_way),
        limit,
    )
    return [row["order_id"] for row in rows]
