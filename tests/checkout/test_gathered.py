"""Orders written together: each is what it would be alone, a key makes one, and an overtaken answer changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from codebank.checkout.order import Approved, Declined, Order, OrderLine, OrderStatus, Outcome, settle
from codebank.checkout.service import Shop
from codebank.checkout.store import orders as store
from codebank.checkout.store.orders import NewOrder, Settled
from codebank.money import Money
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from codebank.wire import new_id
from tests.checkout.shop import card_body, open_shop, order_body, orders_of, payments_of
from tests.checkout.test_order import an_order
from tests.conftest import BankServer, Databases, settings_for

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
#: A row that a rule of later refuses, among others that it does not.
FAULT = """
create function has_fault() returns trigger language plpgsql as $$
begin raise exception 'a fault of this order'; end $$;
create trigger has_fault before {event} on orders for each row
    when (new.idempotency_key = 'api:bad') execute function has_fault();
"""


@pytest.fixture
async def shop_settings(bank_server: BankServer) -> Settings:
    return settings_for(bank_server.settings.databases, bank_address=bank_server.address)  # type: ignore[attr-defined]


@pytest.fixture
async def checkout(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("checkout")
    yield connection
    await connection.close()


def new_order(key: str, quantity: int = 1) -> NewOrder:
    line = OrderLine(product="cafe-especial", name="Café especial", quantity=quantity, unit_price_minor=5_490)
    total = Money(line.total_minor, "BRL")
    order = replace(an_order(), order_id=new_id(), total=total, lines=(line,), created_at=NOW)
    return NewOrder(order, key, NOW + timedelta(seconds=3))


def approved(order: Order) -> Outcome:
    return Approved(new_id(), order.total, NOW)


async def kept(checkout: asyncpg.Connection, order: Order) -> Order:
    found = await store.find_order(checkout, order_id=order.order_id)
    assert found is not None
    return found


async def test_orders_kept_together_are_each_as_it_was_made(checkout: asyncpg.Connection) -> None:
    new = [new_order(f"k{number}", number) for number in range(1, 6)]

    added = await store.add_orders(checkout, new)

    assert added == {one.order.order_id for one in new}
    assert [await store.find_order(checkout, key=one.key) for one in new] == [one.order for one in new]


async def test_a_key_makes_one_order_however_often_it_is_among_them(checkout: asyncpg.Connection) -> None:
    first, twin, other = new_order("k"), new_order("k", 2), new_order("other")

    added = await store.add_orders(checkout, [first, twin, other])
    later = await store.add_orders(checkout, [new_order("other"), new_order("third")])

    assert (len(added), len(later)) == (2, 1)
    assert other.order.order_id in added
    assert len(added & {first.order.order_id, twin.order.order_id}) == 1
    assert await checkout.fetchval("select count(*) from orders") == 3
    # Who was not added left nothing behind.
    assert await checkout.fetchval("select count(*) from order_line") == 3


async def test_answers_written_together_go_to_their_own_orders(checkout: asyncpg.Connection) -> None:
    new = [new_order(f"k{number}") for number in range(4)]
    await store.add_orders(checkout, new)
    outcomes: list[Outcome] = [approved(one.order) for one in new[:3]]
    outcomes.append(Declined(new_id(), "limit_exceeded", "try_again_later", NOW))
    changes = [Settled(one.order, settle(one.order, was, NOW)) for one, was in zip(new, outcomes, strict=True)]

    written = await store.write_settled(checkout, changes)

    assert written == [True] * 4
    assert [await kept(checkout, one.order) for one in new] == [change.after for change in changes]


async def test_an_answer_that_was_overtaken_changes_nothing_and_harms_no_neighbour(
    checkout: asyncpg.Connection,
) -> None:
    moved, still = new_order("moved"), new_order("still")
    await store.add_orders(checkout, [moved, still])
    first = Settled(moved.order, settle(moved.order, approved(moved.order), NOW))
    assert await store.write_settled(checkout, [first]) == [True]

    late = Settled(moved.order, settle(moved.order, Declined(None, "card_blocked", None, NOW), NOW))
    other = Settled(still.order, settle(still.order, approved(still.order), NOW))
    written = await store.write_settled(checkout, [late, other])

    assert written == [False, True]
    assert await kept(checkout, moved.order) == first.after


async def test_of_two_answers_to_one_order_at_once_one_is_written(checkout: asyncpg.Connection) -> None:
    new = new_order("k")
    await store.add_orders(checkout, [new])
    changes = [Settled(new.order, settle(new.order, approved(new.order), NOW)) for _ in range(2)]

    written = await store.write_settled(checkout, changes)

    assert sorted(written) == [False, True]
    assert await kept(checkout, new.order) == changes[written.index(True)].after


async def buy_many(shop: httpx.AsyncClient, *keys: str) -> dict[str, httpx.Response]:
    async def buy(key: str) -> httpx.Response:
        return await shop.post("/api/orders", json=order_body(), headers={"idempotency-key": key})

    return dict(zip(keys, await asyncio.gather(*map(buy, keys)), strict=True))


async def test_many_orders_at_once_are_each_paid_once(shop_settings: Settings) -> None:
    async with open_shop(shop_settings) as browsers:
        answers = await buy_many(browsers(), *(f"k{number}" for number in range(60)))

    assert {answer.json()["status"] for answer in answers.values()} == {"paid"}
    orders = await orders_of(shop_settings)
    assert {str(order["order_id"]) for order in orders} == {answer.json()["id"] for answer in answers.values()}
    payments = await payments_of(shop_settings)
    assert sorted(payment["payment_id"] for payment in payments) == sorted(order["payment_id"] for order in orders)


@pytest.mark.parametrize("event", ["insert", "update of status"])
async def test_a_row_that_cannot_be_written_is_its_own_orders_error(shop_settings: Settings, event: str) -> None:
    keeper = await connect(shop_settings.database_url("checkout"))
    await keeper.execute(FAULT.format(event=event))
    try:
        async with open_shop(shop_settings) as browsers:
            answers = await buy_many(browsers(), "bad", *(f"k{number}" for number in range(20)))
    finally:
        await keeper.execute("drop function has_fault cascade")
        await keeper.close()

    assert answers.pop("bad").status_code == 500
    assert {answer.json()["status"] for answer in answers.values()} == {"paid"}
    assert len({order["payment_id"] for order in await orders_of(shop_settings)} - {None}) == 20


async def test_wrong_requests_among_right_ones_are_told_what_is_wrong_with_them(shop_settings: Settings) -> None:
    bodies: dict[str, Any] = {
        "right": order_body(),
        "no product": order_body(items=[{"product": "nada", "quantity": 1}]),
        "no number": order_body(card=card_body(number="4000001000000019")),
    }
    async with open_shop(shop_settings) as browsers:
        shop = browsers()

        async def send(key: str) -> httpx.Response:
            return await shop.post("/api/orders", json=bodies[key], headers={"idempotency-key": key})

        right, no_product, no_number = await asyncio.gather(*map(send, bodies))

    assert right.json()["status"] == "paid"
    assert [error["field"] for error in no_product.json()["errors"]] == ["items[0].product"]
    assert [error["field"] for error in no_number.json()["errors"]] == ["card.number"]
    assert len(await orders_of(shop_settings)) == 1


async def test_whoever_was_overtaken_decides_anew_on_the_order_as_it_is(
    shop_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Shop.settle

    async def overtaken(shop: Shop, order: Order, outcome: Outcome) -> Order:
        # What a resolver writes that asked while the answer was on its way.
        await shop.pool.execute("update orders set status = 'processing' where order_id = $1", order.order_id)
        assert order.status == OrderStatus.PENDING
        return await real(shop, order, outcome)

    monkeypatch.setattr(Shop, "settle", overtaken)
    async with open_shop(shop_settings) as browsers:
        (answer,) = (await buy_many(browsers(), "k")).values()

    assert answer.json()["status"] == "paid"
    (order,) = await orders_of(shop_settings)
    assert (order["status"], str(order["payment_id"])) == ("paid", answer.json()["payment_id"])
