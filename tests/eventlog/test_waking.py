"""Hints to the relay: outside the money's transaction, few for many, and given again after a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from codebank.eventlog.waking import CHANNEL, Waker
from codebank.runtime.postgres.pool import connected, listen
from codebank.runtime.process import background
from tests.bank import MERCHANT, calling, charge
from tests.conftest import BankServer, Databases

pytestmark = pytest.mark.anyio
ROLE = "waker"


@dataclass
class Ear:
    """Hears the hints."""

    hints: list[str] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, payload: str) -> None:
        self.hints.append(payload)
        self._came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.hints) < count:
                await self._came.wait()
                self._came.clear()


@pytest.fixture
async def ear(databases: Databases) -> AsyncIterator[Ear]:
    ear = Ear()
    async with connected(databases.dsn("bank"), role="ear") as connection:
        await listen(connection, CHANNEL, ear.hear)
        yield ear


@contextlib.asynccontextmanager
async def waking(databases: Databases) -> AsyncIterator[Waker]:
    waker = Waker(databases.dsn("bank"), ROLE)
    async with background(waker.run()):
        yield waker


async def test_many_that_come_together_are_one_hint(databases: Databases, ear: Ear) -> None:
    async with waking(databases) as waker:
        for _ in range(100):
            waker.wake()
        await ear.until(1)
        waker.wake()
        await ear.until(2)

    assert len(ear.hints) == 2


async def test_hints_go_on_after_the_connection_was_lost(databases: Databases, ear: Ear) -> None:
    async with waking(databases) as waker, connected(databases.dsn("bank"), role="killer") as killer:
        waker.wake()
        await ear.until(1)
        ended = await killer.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1", ROLE
        )

        async with asyncio.timeout(10):
            # A hint may go down with the connection; whoever waits for it looks by itself.
            while len(ear.hints) < 2:
                waker.wake()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await ear.until(2)

    assert len(ended) == 1


async def test_a_charge_wakes_the_relay(bank_server: BankServer, ear: Ear) -> None:
    async with calling(bank_server.address) as bank:
        await bank.Authorize(charge("first"), metadata=MERCHANT)

        await ear.until(1)
