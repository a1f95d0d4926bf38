"""The resolver as a task of its role: one bad order, an outage, a fault of its own, a clock that was set back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from codebank.checkout.store import orders as store
from codebank.checkout.store.orders import Patience
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import connect
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from codebank.wire import utc_now
from tests.checkout.shop import (
    OddBank,
    fill_basket,
    open_shop,
    order_body,
    orders_of,
    payment_form,
    serving,
    until_ended,
)
from tests.conftest import BankServer, Databases, settings_for
from tests.skew.future import FutureBank, future_bank
from tests.system import running_system

pytestmark = pytest.mark.anyio

#: What a database says that has no room left.
FULL = """
create function is_full() returns trigger language plpgsql as $$
begin raise sqlstate '53100' using message = 'no space left on device'; end $$;
create trigger is_full before insert or update on orders for each row execute function is_full();
"""
#: A fault of one order alone, such as a row that a rule of later refuses.
FAULT = """
create function has_fault() returns trigger language plpgsql as $$
begin raise exception 'a fault of this order'; end $$;
create trigger has_fault before update of status on orders for each row
    when (old.idempotency_key = 'api:bad') execute function has_fault();
"""


@contextlib.asynccontextmanager
async def broken(databases: Databases, statement: str, function: str) -> AsyncIterator[None]:
    """Put a trigger into the shop's database for a while."""
    keeper = await databases.connect("checkout")
    await keeper.execute(statement)
    try:
        yield
    finally:
        await keeper.execute(f"drop function {function} cascade")
        await keeper.close()


@contextlib.asynccontextmanager
async def read_only(databases: Databases) -> AsyncIterator[None]:
    """Let the shop's server be a stand-by for a while, as after a failover. Connections made meanwhile stay so."""
    name = databases.names["checkout"]
    keeper = await connect(databases.dsn("checkout", "postgres"))
    await keeper.execute(f'alter database "{name}" set default_transaction_read_only = on')
    await keeper.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    try:
        yield
    finally:
        await keeper.execute(f'alter database "{name}" reset default_transaction_read_only')
        await keeper.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(9):
        while not holds():
            await asyncio.sleep(0.01)


async def buy(shop: httpx.AsyncClient, key: str) -> httpx.Response:
    return await shop.post("/api/orders", json=order_body(), headers={"idempotency-key": key})


async def statuses(databases: Databases) -> dict[str, str]:
    keeper = await databases.connect("checkout")
    rows = await keeper.fetch("select idempotency_key, status from orders")
    await keeper.close()
    return {row["idempotency_key"]: row["status"] for row in rows}


def seen(telemetry: Telemetry, status: str) -> float:
    return telemetry.registry.get_sample_value("codebank_resolver_orders_total", {"status": status}) or 0


async def place_while_away(databases: Databases, *keys: str) -> None:
    """Make orders whose outcome nobody knows: the bank is away."""
    away = settings_for(databases, bank_address="127.0.0.1:1", call_budget_seconds=1, resolve_after_seconds=600)
    async with open_shop(away) as browsers:
        answers = await asyncio.gather(*(buy(browsers(), key) for key in keys))
    assert {answer.json()["status"] for answer in answers} == {"processing"}


async def make_due(databases: Databases) -> None:
    keeper = await databases.connect("checkout")
    await keeper.execute("update orders set created_at = created_at - interval '1 minute', resolve_at = now()")
    await keeper.close()


@dataclass
class ForgetfulBank(OddBank):
    """Never saw any key, and never comes back with an answer about some."""

    hangs_on: set[str] = field(default_factory=set)

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.GetPaymentResponse:
        if request.idempotency_key in self.hangs_on:
            await asyncio.Event().wait()
        return await super().GetPayment(request, context)


async def test_trap_c02_an_error_with_one_order_ends_neither_the_resolver_nor_the_other_orders(
    databases: Databases,
) -> None:
    await place_while_away(databases, "bad", "good")
    telemetry = Telemetry(METRICS)
    async with serving(ForgetfulBank()) as address:  # type: ignore[abstract]
        settings = settings_for(databases, bank_address=address, cancel_after_seconds=10)
        async with broken(databases, FAULT, "has_fault"):
            await make_due(databases)
            async with open_shop(settings, telemetry):
                await until(lambda: seen(telemetry, "failed") > 0 and seen(telemetry, "cancelled") > 0)
                while_broken = await statuses(databases)
        await make_due(databases)
        async with open_shop(settings, telemetry):
            await until(lambda: seen(telemetry, "cancelled") > 1)

    assert while_broken == {"api:bad": "processing", "api:good": "cancelled"}
    assert await statuses(databases) == {"api:bad": "cancelled", "api:good": "cancelled"}


async def test_an_order_that_the_bank_does_not_come_back_with_holds_up_no_other(databases: Databases) -> None:
    await place_while_away(databases, *(str(number) for number in range(40)))
    orders = [str(order["order_id"]) for order in await orders_of(settings_for(databases))]
    bank = ForgetfulBank(hangs_on=set(orders[:20]))  # type: ignore[abstract]
    telemetry = Telemetry(METRICS)
    await make_due(databases)
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address, call_budget_seconds=30, cancel_after_seconds=10)
        async with open_shop(settings, telemetry):
            await until(lambda: seen(telemetry, "cancelled") == 20)

    assert set(bank.cancelled) == set(orders[20:])


async def test_no_more_orders_are_taken_than_asked_for_however_the_database_goes_about_it(
    databases: Databases,
) -> None:
    await place_while_away(databases, *(str(number) for number in range(40)))
    await make_due(databases)
    checkout = await databases.connect("checkout")
    for way in ("hashjoin", "hashagg", "mergejoin", "material", "sort"):
        await checkout.execute(f"set enable_{way} = off")

    patience = Patience(timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=30))
    leased = await store.lease_unresolved(checkout, utc_now(), patience, 5, ())

    await checkout.close()
    assert len(leased) == 5


async def test_trap_c02_an_error_of_the_resolver_itself_ends_the_role(databases: Databases) -> None:
    async with running_system(databases, "checkout") as system:
        role, _ = system.running.pop("checkout")
        keeper = await databases.connect("checkout")
        await keeper.execute("alter table orders rename column resolve_at to look_at")
        try:
            async with asyncio.timeout(9):
                with pytest.raises(ExceptionGroup) as raised:
                    await role
        finally:
            await keeper.execute("alter table orders rename column look_at to resolve_at")
            await keeper.close()

    assert raised.group_contains(asyncpg.UndefinedColumnError)


@contextlib.asynccontextmanager
async def slow_shop(
    bank_server: BankServer, databases: Databases
) -> AsyncIterator[tuple[Settings, Telemetry, FutureBank, httpx.AsyncClient]]:
    """Run a ready shop whose bank answers when it is let, and a browser in it."""
    telemetry = Telemetry(METRICS)
    async with future_bank(bank_server.address) as (address, bank):
        settings = settings_for(databases, bank_address=address, resolve_after_seconds=1)
        async with open_shop(settings, telemetry) as browsers:
            telemetry.ready.set()
            yield settings, telemetry, bank, browsers()


async def test_trap_c07_on_a_read_only_server_what_must_write_says_when_to_try_again_and_all_heals_by_itself(
    bank_server: BankServer, databases: Databases
) -> None:
    async with slow_shop(bank_server, databases) as (settings, telemetry, bank, shop):
        await fill_basket(shop)
        form = await payment_form(shop)
        bank.may_answer.clear()
        under_way = asyncio.create_task(shop.post("/payment", data=form))
        await bank.carried_out.wait()

        async with read_only(databases):
            bank.may_answer.set()
            refused = [
                await under_way,
                await shop.post("/basket", data={"product": "cafe-especial", "action": "add"}),
                await buy(shop, "new"),
            ]
            read = await shop.get("/")
            await until(lambda: not telemetry.ready.is_set())
        await until(telemetry.ready.is_set)
        order = await until_ended(settings)
        again = await shop.post("/payment", data=form)
        bought = await buy(shop, "new")

    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1")] * 3
    assert read.status_code == 200
    assert order["status"] == "paid"
    assert again.headers["location"] == f"/orders/{order['order_id']}"
    assert bought.json()["status"] == "paid"


async def test_trap_c07_a_full_disk_refuses_new_orders_and_ends_what_was_under_way_when_there_is_room(
    bank_server: BankServer, databases: Databases
) -> None:
    async with slow_shop(bank_server, databases) as (settings, telemetry, bank, shop):
        bank.may_answer.clear()
        under_way = asyncio.create_task(buy(shop, "first"))
        await bank.carried_out.wait()

        async with broken(databases, FULL, "is_full"):
            bank.may_answer.set()
            refused = [await under_way, await buy(shop, "second")]
            await until(lambda: not telemetry.ready.is_set())
        await until(telemetry.ready.is_set)
        order = await until_ended(settings)

    assert [(answer.status_code, answer.headers["retry-after"]) for answer in refused] == [(503, "1"), (503, "1")]
    assert order["status"] == "paid"


@pytest.mark.parametrize("ahead", ["1 hour", "1 day"])
async def test_trap_c08_an_order_of_the_old_future_is_not_waited_for(databases: Databases, ahead: str) -> None:
    await place_while_away(databases, "k")
    keeper = await databases.connect("checkout")
    # What a clock leaves behind that is set back while an order is under way.
    await keeper.execute(f"update orders set created_at = created_at + interval '{ahead}'")
    await keeper.execute(f"update orders set resolve_at = resolve_at + interval '{ahead}'")
    await keeper.close()
    async with serving(ForgetfulBank()) as address:  # type: ignore[abstract]
        settings = settings_for(databases, bank_address=address, cancel_after_seconds=1)
        async with open_shop(settings):
            order = await until_ended(settings)

    assert order["status"] == "cancelled"
    assert order["created_at"] <= utc_now()


async def test_an_order_is_looked_at_the_less_often_the_older_it_is(databases: Databases) -> None:
    ages = {"young": 5, "older": 100, "old": 7200}
    await place_while_away(databases, *ages)
    keeper = await databases.connect("checkout")
    now = utc_now()
    for key, age_seconds in ages.items():
        await keeper.execute(
            "update orders set created_at = $2::timestamptz - make_interval(secs => $3), resolve_at = $2"
            " where idempotency_key = $1",
            f"api:{key}",
            now,
            age_seconds,
        )

    patience = Patience(timedelta(seconds=3), timedelta(seconds=2), timedelta(seconds=30))
    due = await store.lease_unresolved(keeper, now, patience, 10, ())
    again = await store.lease_unresolved(keeper, now, patience, 10, ())
    rows = await keeper.fetch("select idempotency_key, resolve_at - $1 as pause from orders", now)
    await keeper.close()

    assert (len(due), again) == (3, [])
    pauses = {row["idempotency_key"]: row["pause"].total_seconds() for row in rows}
    assert pauses == {"api:young": 2, "api:older": 10, "api:old": 30}
