"""Pushes to open pages: one connection listens for all of them, each page looks for itself what changed.

A notification only wakes; what a page is sent comes from the database, from where that page stands. So a lost or
merged wake-up loses nothing, and a slow page has nothing queued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from codebank.runtime.database import listening
from codebank.runtime.telemetry import Telemetry


@dataclass
class Hub:
    """Wakes the open pages of an account when it changed."""

    dsn: str
    telemetry: Telemetry
    _pages: dict[UUID, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    is_closing: bool = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while in use; on leaving, every page is let go."""
        async with listening(self.dsn, "line", self._heard, role="statement-live"):
            try:
                yield
            finally:
                self.close()

    def close(self) -> None:
        """Let every open page go, so that it comes back to another process."""
        self.is_closing = True
        self._heard("")

    def _heard(self, payload: str) -> None:
        account, _, _ = payload.partition(":")
        # An empty payload: the connection is new, anything may have been missed.
        accounts = [UUID(account)] if account else list(self._pages)
        for account_id in accounts:
            for woken in self._pages.get(account_id, ()):
                woken.set()

    @contextlib.contextmanager
    def page(self, account_id: UUID) -> Iterator[asyncio.Event]:
        """Give the event that is set when an account changed."""
        woken = asyncio.Event()
        self._pages[account_id].add(woken)
        self.telemetry.gauge("codebank_open_pages").inc()
        try:
            yield woken
        finally:
            self.telemetry.gauge("codebank_open_pages").dec()
            self._pages[account_id].discard(woken)
            if not self._pages[account_id]:
                del self._pages[account_id]
