"""Unknown outcomes: a bank that hangs, is away, or answers oddly, and what the resolver makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from codebank.checkout.bank import BankClient
from codebank.checkout.order import Unknown
from codebank.checkout.store import orders as store
from codebank.roles import METRICS
from codebank.runtime.grpc.tls import Identity
from codebank.runtime.postgres.pool import connect
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.wire import new_id
from tests.checkout.shop import (
    fill_basket,
    odd_bank,
    open_shop,
    order_body,
    orders_of,
    payment_form,
    payments_of,
    serving,
    until_ended,
)
from tests.checkout.test_order import GOOD_CARD, an_order
from tests.conftest import BankServer, Databases, seed, serving_bank, settings_for

pytestmark = pytest.mark.anyio
KEY = {"idempotency-key": "k"}


async def test_trap_a26_a_bank_that_never_answers_leaves_the_order_under_way_within_the_budget(
    databases: Databases,
) -> None:
    async with serving(odd_bank()) as address:
        settings = settings_for(databases, bank_address=address, call_budget_seconds=1, cancel_after_seconds=600)
        async with open_shop(settings) as browsers, asyncio.timeout(4):
            answer = await browsers().post("/api/orders", json=order_body(), headers=KEY)

    assert answer.status_code == 202
    assert answer.json()["status"] == "processing"
    assert answer.headers["retry-after"] == "1"


async def test_trap_b19_a_bank_that_is_down_is_no_mistake_of_the_buyers(databases: Databases) -> None:
    settings = settings_for(databases, bank_address="127.0.0.1:1", call_budget_seconds=1, cancel_after_seconds=600)
    async with open_shop(settings) as browsers:
        browser = browsers()
        rest = await browser.post("/api/orders", json=order_body(), headers=KEY)
        await fill_basket(browser)
        sent = await browser.post("/payment", data=await payment_form(browser))
        page = await browser.get(sent.headers["location"])

    assert rest.status_code == 202
    assert "Confirmando com o banco" in page.text
    assert [order["status"] for order in await orders_of(settings)] == ["processing", "processing"]


async def test_trap_b15_no_transaction_is_open_while_the_bank_is_asked(databases: Databases) -> None:
    bank = odd_bank()
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address)
        async with open_shop(settings) as browsers:
            buying = asyncio.create_task(browsers().post("/api/orders", json=order_body(), headers=KEY))
            await bank.asked.wait()
            keeper = await databases.connect("checkout")
            open_transactions = await keeper.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and pid <> pg_backend_pid() and state like 'idle in transaction%'"
            )
            written = await keeper.fetchval("select status from orders")
            await keeper.close()
            bank.may_answer.set()
            answer = await buying

    assert open_transactions == 0
    assert written == "pending"  # the order came first, in its own commit
    assert answer.json()["status"] == "paid"


async def test_trap_a13_b16_a_failure_after_the_charge_still_ends_in_a_paid_order(
    bank_server: BankServer, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(databases, bank_address=bank_server.address, resolve_after_seconds=1)
    real, failures = store.write_settled, iter([True])

    async def fail_once(*arguments: Any) -> list[bool]:
        if next(failures, False):
            raise OSError("the machine lost its power")
        return await real(*arguments)

    monkeypatch.setattr(store, "write_settled", fail_once)
    async with open_shop(settings) as browsers:
        answer = await browsers().post("/api/orders", json=order_body(), headers=KEY)
        order = await until_ended(settings)

    assert answer.status_code == 503
    assert order["status"] == "paid"
    payments = await payments_of(settings)
    assert [payment["payment_id"] for payment in payments] == [order["payment_id"]]


# A bank that stops answers CANCELLED to what it had not taken.
@pytest.mark.parametrize("status", ["UNAVAILABLE", "CANCELLED", "ABORTED", "INTERNAL", "RESOURCE_EXHAUSTED"])
async def test_what_may_heal_is_asked_again_with_the_same_key(databases: Databases, status: str) -> None:
    bank = odd_bank(gives_first=grpc.StatusCode[status])
    bank.may_answer.set()
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address)
        async with open_shop(settings) as browsers:
            answer = await browsers().post("/api/orders", json=order_body(), headers=KEY)

    assert answer.json()["status"] == "paid"
    assert bank.keys == [answer.json()["id"]] * 2


async def test_the_browser_that_goes_away_mid_call_does_not_stop_the_payment(databases: Databases) -> None:
    bank = odd_bank()
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address)
        async with open_shop(settings) as browsers:
            buying = asyncio.create_task(browsers().post("/api/orders", json=order_body(), headers=KEY))
            await bank.asked.wait()
            buying.cancel()
            bank.may_answer.set()
            order = await until_ended(settings)

    assert order["status"] == "paid"


async def test_an_approval_of_another_amount_is_cancelled_not_kept(databases: Databases) -> None:
    bank = odd_bank(amount_minor=1)
    bank.may_answer.set()
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address)
        async with open_shop(settings) as browsers:
            answer = await browsers().post("/api/orders", json=order_body(), headers=KEY)

    assert answer.json()["status"] == "cancelled"
    assert bank.cancelled == [answer.json()["id"]]


async def test_an_approval_with_another_orders_payment_pays_nothing_and_is_cancelled(databases: Databases) -> None:
    bank = odd_bank()  # gives every payment the same id
    bank.may_answer.set()
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address, resolve_after_seconds=1, cancel_after_seconds=1)
        async with open_shop(settings) as browsers:
            first = await browsers().post("/api/orders", json=order_body(), headers=KEY)
            second = await browsers().post("/api/orders", json=order_body(), headers={"idempotency-key": "other"})
            async with asyncio.timeout(9):
                while (ended := (await orders_of(settings))[1])["settled_at"] is None:
                    await asyncio.sleep(0.01)

    assert (first.json()["status"], second.json()["status"]) == ("paid", "processing")
    assert (ended["status"], ended["payment_id"]) == ("cancelled", None)
    assert bank.cancelled == [second.json()["id"]]


async def test_a_certificate_that_cannot_be_read_leaves_the_outcome_unknown(
    tmp_path: Path,
) -> None:
    nothing = tmp_path / "gone.pem"
    identity = Identity(nothing, nothing, nothing)
    bank = BankClient("127.0.0.1:1", "key", 1, Telemetry(METRICS), identity)

    assert await bank.find(new_id()) == await bank.cancel(new_id()) == Unknown("UNREADABLE")
    await bank.close()


async def test_a_channel_that_is_closed_under_a_call_leaves_the_outcome_unknown() -> None:
    bank = odd_bank()
    async with serving(bank) as address:
        client = BankClient(address, "key", 5, Telemetry(METRICS))
        asking = asyncio.create_task(client.authorize(an_order(), GOOD_CARD, "x"))
        await bank.asked.wait()

        await client.close()

        assert isinstance(await asking, Unknown)


async def test_an_order_that_the_bank_never_saw_is_cancelled_and_its_key_closed(databases: Databases) -> None:
    away = settings_for(databases, bank_address="127.0.0.1:1", call_budget_seconds=1, cancel_after_seconds=600)
    async with open_shop(away) as browsers:
        await browsers().post("/api/orders", json=order_body(), headers=KEY)
    await seed(away)

    async with serving_bank(away) as bank:
        settings: Settings = settings_for(databases, bank_address=bank.address, cancel_after_seconds=1)
        async with open_shop(settings):
            order = await until_ended(settings)

    assert order["status"] == "cancelled"
    connection = await connect(databases.dsn("bank"))
    keys = await connection.fetch("select key, payment_id from idempotency_key")
    await connection.close()
    assert [(row["key"], row["payment_id"]) for row in keys] == [(str(order["order_id"]), None)]
    assert await payments_of(settings) == []


async def test_two_resolvers_do_not_settle_an_order_twice(databases: Databases) -> None:
    bank = odd_bank()
    async with serving(bank) as address:
        settings = settings_for(
            databases, bank_address=address, call_budget_seconds=1, resolve_after_seconds=1, cancel_after_seconds=1
        )
        async with open_shop(settings) as browsers, open_shop(settings):
            await browsers().post("/api/orders", json=order_body(), headers=KEY)
            order = await until_ended(settings)

    assert order["status"] == "cancelled"
    assert len(bank.cancelled) == 1
