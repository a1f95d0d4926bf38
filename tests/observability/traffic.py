"""Traffic of every kind: what one may want to see on a dashboard has happened once."""

from __future__ import annotations

import asyncio
import signal
from uuid import UUID

import httpx

from codebank.checkout.bank import BankClient
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import NewRecord
from codebank.events import PAYMENTS_TOPIC
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from tests.checkout.shop import APPROVED, order_body
from tests.observability.watching import Watched

BLOCKED, LIMIT, SLOW = "4000001000000158", "4000001000000190", "4000001000000307"


async def make_traffic(system: Watched) -> None:
    """Buy, be refused, give back, lose an answer, sign in rightly and wrongly, look on, write what nobody can read."""
    home = "http://127.0.0.1:{}".format
    async with (
        httpx.AsyncClient(base_url=home(system.ports["checkout_port"]), timeout=20) as shop,
        httpx.AsyncClient(base_url=home(system.ports["statement_port"]), timeout=20) as pages,
    ):
        await shop.get("/")
        await _sign_in(pages, "wrong", 401)
        await _sign_in(pages, DEMO_PASSWORD, 303)
        async with pages.stream("GET", "/live") as live:
            assert live.status_code == 200
            paid = await _buy(shop, "first", APPROVED)
            for number, card in enumerate((APPROVED, BLOCKED, LIMIT, SLOW)):
                await _buy(shop, f"k{number}", card)
            await _lose_an_answer(system, shop)
            await _give_back(system, paid)
            await _write_what_nobody_can_read(system)
            # Twice everything: a counter that appears with its first event shows a rate from the second on.
            for number, card in enumerate((APPROVED, BLOCKED, LIMIT) * 2):
                await _buy(shop, f"again {number}", card)
            await _lose_an_answer(system, shop)
            await _give_back(system, await _buy(shop, "last", APPROVED))
            await _write_what_nobody_can_read(system)
            await pages.get("/")
        await _sign_in(pages, "wrong", 401)
        await _sign_in(pages, DEMO_PASSWORD, 303)


async def _sign_in(pages: httpx.AsyncClient, password: str, status: int) -> None:
    answer = await pages.post("/sign-in", data={"email": DEMO_EMAIL, "password": password})
    assert answer.status_code == status, answer.text


async def _buy(shop: httpx.AsyncClient, key: str, card: str) -> UUID:
    answer = await shop.post("/api/orders", json=order_body(card), headers={"idempotency-key": key})
    assert answer.status_code < 300, answer.text
    return UUID(answer.json()["id"])


async def _lose_an_answer(system: Watched, shop: httpx.AsyncClient) -> None:
    """Buy while the bank hangs, and wait until the resolver has found out what became of it."""
    system.signal("bank", signal.SIGSTOP)
    try:
        order = await _buy(shop, f"lost {system.ask('time()')}", APPROVED)
    finally:
        system.signal("bank", signal.SIGCONT)
    async with asyncio.timeout(30):
        while (await shop.get(f"/api/orders/{order}")).json()["status"] in {"pending", "processing"}:
            await asyncio.sleep(0.1)


async def _give_back(system: Watched, order: UUID) -> None:
    """Give money back behind the shop's back: there is an event for it, and the proof must notice."""
    settings = system.settings
    bank = BankClient(settings.bank_target(), settings.merchant_key, settings.call_budget_seconds, Telemetry(METRICS))
    await bank.cancel(order)
    await bank.close()


async def _write_what_nobody_can_read(system: Watched) -> None:
    async with open_log(system.settings, "operator") as log:
        writer = await log.open_writer(PAYMENTS_TOPIC)
        await writer.append([NewRecord(b"?", b"?", {})])
        await writer.close()
