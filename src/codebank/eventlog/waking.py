"""Wakes the relay: a hint that something waits in the outbox, outside the transaction that put it there.

Inside, PostgreSQL would hold one lock of the whole server around every commit. Nothing depends on a hint: the relay
looks by itself now and then.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from codebank.eventlog.pace import REST_SECONDS
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import connected

#: The channel on which the relay listens.
CHANNEL: Final = "outbox"
_PAUSE_SECONDS: Final = 1


@dataclass
class Waker:
    """Gives hints on a connection of its own."""

    bank_dsn: str
    role: str
    _is_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Say that something waits."""
        self._is_wanted.set()

    async def run(self) -> None:
        """Give hints until cancelled; while the database is away nobody misses them."""
        while True:
            try:
                async with connected(self.bank_dsn, role=self.role) as connection:
                    # A hint that a crash takes with it is not missed either.
                    await connection.execute("set synchronous_commit = off")
                    while True:
                        await self._is_wanted.wait()
                        self._is_wanted.clear()
                        await connection.execute(f"notify {CHANNEL}")
                        # The relay rests as long after each batch: what comes sooner it would not take sooner.
                        await asyncio.sleep(REST_SECONDS)
            except OUTAGES:
                await asyncio.sleep(_PAUSE_SECONDS)
