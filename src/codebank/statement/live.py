"""Pushes to open pages, and how fresh the statement is: one connection listens for all, each page looks for itself.

A notification only wakes; what a page is sent comes from the database, from where that page stands. So a lost or
merged wake-up loses nothing, and a slow page has nothing queued.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import partition_of_account
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import listening
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry
from codebank.statement.store.reading import read_behind

log = logging.getLogger(__name__)

#: A projector tells every second that it has read all there is; so long a silence means that it has not.
_BEHIND_SECONDS: Final = 10
_WATCH_SECONDS: Final = 2
_ANSWER_SECONDS: Final = 5


@dataclass
class Hub:
    """Wakes the open pages of an account when it changed."""

    dsn: str
    telemetry: Telemetry
    _pages: dict[UUID, set[asyncio.Event]] = field(default_factory=lambda: defaultdict(set))
    is_closing: bool = False
    #: Account with open pages → the trace of what woke them last, if it is recorded.
    _traces: dict[UUID, str] = field(default_factory=dict)
    #: Partitions that were not seen read to their end for a while → when they last were.
    _behind: dict[int, datetime] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def running(self, pool: asyncpg.Pool) -> AsyncIterator[None]:
        """Listen while in use; on leaving, every page is let go."""
        async with listening(self.dsn, "line", self._heard, role="statement-live"), background(self._watch(pool)):
            try:
                yield
            finally:
                self.close()

    async def _watch(self, pool: asyncpg.Pool) -> None:
        """Look again and again how fresh the partitions are, and wake the pages where that turned."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS), pool.acquire() as connection:
                    behind = await read_behind(connection, _BEHIND_SECONDS)
            except OUTAGES as error:
                log.warning("the statement's database does not answer: %s", type(error).__name__)
                self.telemetry.ready.note("pages", does=False)
            else:
                self.telemetry.ready.note("pages", does=True)
                turned, self._behind = behind.keys() ^ self._behind.keys(), behind
                for account_id in list(self._pages):
                    if partition_of_account(account_id) in turned:
                        self._heard(f"{account_id}:")
            await asyncio.sleep(_WATCH_SECONDS)

    def behind_since(self, account_id: UUID) -> datetime | None:
        """Tell until when the account's statement is surely whole; None where it is whole now."""
        return self._behind.get(partition_of_account(account_id))

    def trace_of(self, account_id: UUID) -> str:
        """Give the trace of what woke an account's pages last; empty where it is not recorded."""
        return self._traces.get(account_id, "")

    def close(self) -> None:
        """Let every open page go, so that it comes back to another process."""
        self.is_closing = True
        self.telemetry.ready.clear()
        self._heard("")

    def _heard(self, payload: str) -> None:
        account, _, rest = payload.partition(":")
        try:
            accounts = [UUID(account)]
        except ValueError:
            # Empty: the connection is new, anything may have been missed. Or a newer projector says it otherwise.
            accounts = list(self._pages)
        traceparent = rest.partition(":")[2]
        for account_id in accounts:
            if account_id in self._pages:
                self._traces[account_id] = traceparent
            for woken in self._pages.get(account_id, ()):
                woken.set()

    @contextlib.contextmanager
    def page(self, account_ids: Collection[UUID]) -> Iterator[asyncio.Event]:
        """Give the event that is set when one of a reader's accounts changed."""
        woken = asyncio.Event()
        for account_id in account_ids:
            self._pages[account_id].add(woken)
        self.telemetry.gauge("codebank_open_pages").inc()
        try:
            yield woken
        finally:
            self.telemetry.gauge("codebank_open_pages").dec()
            for account_id in account_ids:
                self._pages[account_id].discard(woken)
                if not self._pages[account_id]:
                    del self._pages[account_id]
                    self._traces.pop(account_id, None)
