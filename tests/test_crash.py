"""Stopped at every step: nothing is lost, nothing is doubled, and the proof passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from codebank.checkout.bank import BankClient
from codebank.checkout.order import Unknown
from codebank.checkout.service import Shop
from codebank.runtime.postgres.pool import Connection
from codebank.statement.store import projecting
from tests.checkout.shop import APPROVED, TIMEOUT_AFTER_COMMIT, card_body, orders_of, payments_of
from tests.conftest import Databases
from tests.eventlog.test_relay import CrashingLog
from tests.system import System, relay_over, running_system

pytestmark = pytest.mark.anyio
COUNT = 12


@pytest.fixture
async def system(databases: Databases) -> AsyncIterator[System]:
    async with running_system(
        databases, resolve_after_seconds=1, cancel_after_seconds=2, call_budget_seconds=2
    ) as made:
        yield made


async def buy(system: System, key: str, number: str = APPROVED) -> str:
    """Buy something; give the order's status, or nothing where the shop broke down."""
    async with system.shop() as shop:
        body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card_body(number)}
        answer = await shop.post("/api/orders", json=body, headers={"idempotency-key": key})
    return str(answer.json().get("status", "")) if answer.status_code < 500 else ""


async def buy_many(system: System) -> list[str]:
    return list(await asyncio.gather(*(buy(system, f"k{number}") for number in range(COUNT))))


async def all_ended(system: System) -> list[str]:
    async with asyncio.timeout(15):
        while True:
            statuses = [order["status"] for order in await orders_of(system.settings)]
            if not {"pending", "processing"} & set(statuses):
                return statuses
            await asyncio.sleep(0.02)


async def test_stopped_after_the_order_before_the_call(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(_shop: Shop, _order: object, _card: object) -> None:
        raise OSError("the shop died before it called")

    monkeypatch.setattr(Shop, "pay", die)
    assert await buy_many(system) == [""] * COUNT
    monkeypatch.undo()

    # The bank never saw them: nobody pays, and every key is closed.
    assert await all_ended(system) == ["cancelled"] * COUNT
    assert await payments_of(system.settings) == []
    assert (await system.proven()).agrees


async def test_stopped_during_the_call(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BankClient.authorize

    async def lose_the_answer(*arguments: object) -> Unknown:
        await real(*arguments)  # type: ignore[arg-type]
        return Unknown("the answer was lost")

    monkeypatch.setattr(BankClient, "authorize", lose_the_answer)
    assert await buy_many(system) == ["processing"] * COUNT

    assert await all_ended(system) == ["paid"] * COUNT
    assert len(await payments_of(system.settings)) == COUNT
    assert (await system.proven()).agrees


async def test_stopped_after_the_commit_before_the_answer(system: System) -> None:
    # The card whose first answer never comes: the money has moved, and the bank dies with the answer in its hands.
    buying = asyncio.create_task(buy(system, "first", TIMEOUT_AFTER_COMMIT))
    async with asyncio.timeout(8):
        while not await payments_of(system.settings):
            await asyncio.sleep(0.01)
    await system.kill("bank")
    await system.start("bank")
    await buying

    assert await all_ended(system) == ["paid"]
    assert await buy(system, "first", TIMEOUT_AFTER_COMMIT) == "paid"
    assert len(await payments_of(system.settings)) == 1
    assert (await system.proven()).agrees


async def test_stopped_after_ship_before_removal(system: System) -> None:
    await system.stop("relay")
    await buy_many(system)
    crashing: list[CrashingLog] = []

    def log(pool: object, dsn: str) -> CrashingLog:
        crashing.append(CrashingLog(pool, dsn, 1, crashes=3))  # type: ignore[arg-type]
        return crashing[0]

    async with relay_over(system, log):
        await buy(system, "one more")
        proof = await system.proven()

    assert crashing[0].crashes < 3
    assert proof.agrees
    assert {check.name: check.compared for check in proof.checks}["statement"] == COUNT + 1


async def test_stopped_after_projection_before_position(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    real, deaths = projecting.write_batch, iter([True] * 3)

    async def die(connection: Connection, *arguments: Any) -> None:
        async with connection.transaction():
            await real(connection, *arguments)
            if next(deaths, False):
                raise ConnectionResetError("killed before the commit")

    monkeypatch.setattr(projecting, "write_batch", die)
    await buy_many(system)
    proof = await system.proven()

    assert next(deaths, None) is None
    assert proof.agrees
    assert {check.name: check.compared for check in proof.checks}["statement"] == COUNT


async def test_every_role_but_the_shop_is_killed_under_load_and_comes_back(system: System) -> None:
    buying = [asyncio.create_task(buy(system, f"k{number}")) for number in range(40)]
    for name in ("projector", "relay", "bank", "statement", "projector", "relay"):
        await system.kill(name)
        await system.start(name)
    statuses = await asyncio.gather(*buying)

    assert "" not in statuses
    assert set(await all_ended(system)) <= {"paid", "cancelled"}
    assert (await system.proven()).agrees
