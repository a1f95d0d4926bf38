"""A database that hangs: a page that says so within seconds, where a blank one stood for half a minute."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from codebank.checkout import app
from codebank.machine.orphans import server_processes
from codebank.machine.postgres import EmbeddedPostgres
from codebank.runtime.web.app import PATIENCE_SECONDS
from tests.checkout.shop import fill_basket, open_shop, order_body, orders_of, payment_form
from tests.conftest import BankServer, Databases, settings_for

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def hanging(server: EmbeddedPostgres) -> Iterator[None]:
    """Hold a server still, all of its processes, as a disk that does not answer does."""
    stopped = server_processes(server.data)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def test_trap_c05_a_hung_database_is_a_page_that_says_so_within_seconds_and_afterwards_all_is_well(
    bank_server: BankServer, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 1 <= PATIENCE_SECONDS <= 9
    monkeypatch.setattr(app, "PATIENCE_SECONDS", 1)
    settings = settings_for(databases, bank_address=bank_server.address)
    async with open_shop(settings) as browsers:
        browser = browsers()
        await fill_basket(browser)
        form = await payment_form(browser)

        with hanging(databases.server):
            async with asyncio.timeout(9):
                sent, seen, rest, basket = await asyncio.gather(
                    browser.post("/payment", data=form),
                    browser.get("/"),
                    browser.post("/api/orders", json=order_body(), headers={"idempotency-key": "k"}),
                    browser.post("/basket", data={"product": "cafe-especial", "action": "add"}),
                )
        again = await browser.post("/payment", data=form)

    assert {answer.status_code for answer in (sent, seen, rest, basket)} == {503}
    assert "Estamos fora do ar por um momento" in sent.text
    assert rest.headers["content-type"] == "application/problem+json"
    assert again.status_code == 303
    assert [order["status"] for order in await orders_of(settings)] == ["paid"]
