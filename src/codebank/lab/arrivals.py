"""When the payments of a run arrived on every side, as each side wrote it down by itself.

Every function waits until all are there, and raises CodebankError where one does not come.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from codebank.errors import Code, CodebankError
from codebank.eventlog.log import EventLog, Record
from codebank.events import PAYMENTS_TOPIC, PaymentEvent
from codebank.lab.pages import Page
from codebank.search.index import SearchIndex
from codebank.settings import Settings
from codebank.wire import MalformedEvent, decode_event

_PATIENCE_SECONDS: Final = 60
_SCAN: Final = 2000


@dataclass(frozen=True, slots=True)
class Logged:
    """A payment's event on the log."""

    account_id: UUID
    sequence: int
    decided_at: datetime
    appended_at: datetime

    @property
    def late_milliseconds(self) -> int:
        """How long after the decision it was appended."""
        return _milliseconds(self.decided_at, self.appended_at)


async def accounts_there(pool: asyncpg.Pool, account_ids: Sequence[UUID]) -> None:
    """Wait until the statement knows accounts."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    asked = "select count(*) from account where account_id = any($1)"
    while (there := await pool.fetchval(asked, account_ids)) < len(account_ids):
        _check(deadline, "statement", there, account_ids)
        await asyncio.sleep(0.1)


async def on_statement(pool: asyncpg.Pool, payments: set[str]) -> list[int]:
    """Tell how many milliseconds after the decision each line was written."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        rows = await pool.fetch(
            "select (extract(epoch from projected_at - occurred_at) * 1000)::int as late from line"
            " where payment_id = any($1::uuid[])",
            list(payments),
        )
        if len(rows) == len(payments):
            return [row["late"] for row in rows]
        _check(deadline, "statement", len(rows), payments)
        await asyncio.sleep(0.1)


async def on_log(log: EventLog, payments: set[str], begin: Mapping[int, int]) -> dict[str, Logged]:
    """Find every payment's event on the log. Raises CodebankError where one is missing, or there twice."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    found: dict[str, Logged] = {}
    positions = dict(begin)
    while len(found) < len(payments):
        for partition, end in (await log.ends(PAYMENTS_TOPIC, settled=True)).items():
            while (position := positions.get(partition, 0)) < end:
                records = await log.scan(PAYMENTS_TOPIC, partition, position, _SCAN)
                if not records:
                    break
                positions[partition] = records[-1].offset + 1
                for payment_id, event in filter(None, map(_payment_on, records)):
                    if payment_id in found:
                        raise CodebankError(Code.INTERNAL, f"the payment {payment_id} is on the log twice")
                    if payment_id in payments:
                        found[payment_id] = event
        _check(deadline, "log", len(found), payments)
    return found


def _payment_on(record: Record) -> tuple[str, Logged] | None:
    try:
        event = decode_event(record.headers, record.value)
    except MalformedEvent:
        return None
    if not isinstance(event, PaymentEvent):
        return None
    found = Logged(event.account_id, event.sequence, event.occurred_at, record.appended_at)
    return str(event.payment.payment_id), found


async def on_pages(pages: Sequence[Page], events: Iterable[Logged]) -> list[int]:
    """Tell how many milliseconds after the decision each event of an account with an open page was shown there."""
    deadline, by_account = time.monotonic() + _PATIENCE_SECONDS, {page.account_id: page for page in pages}
    wanted = [event for event in events if event.account_id in by_account]
    while True:
        shown = [(event, by_account[event.account_id].shown_at(event.sequence)) for event in wanted]
        late = [_milliseconds(event.decided_at, at) for event, at in shown if at is not None]
        if len(late) == len(wanted):
            return late
        _check(deadline, "open pages", len(late), wanted)
        await asyncio.sleep(0.1)


async def in_index(settings: Settings, payments: set[str], began_at: datetime) -> list[int]:
    """Tell how many milliseconds after the decision each document was sent to the index."""
    index = SearchIndex.of(settings)
    assert index is not None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = {payment: late async for payment, late in index.delays(began_at) if payment in payments}
        if len(found) == len(payments):
            return list(found.values())
        _check(deadline, "search index", len(found), payments)
        await asyncio.sleep(0.2)


def _milliseconds(earlier: datetime, later: datetime) -> int:
    # Kafka's own times have no fraction of a millisecond, so one may seem to come before the other.
    return max(0, round((later - earlier).total_seconds() * 1000))


def _check(deadline: float, side: str, found: int, wanted: Sized) -> None:
    if time.monotonic() > deadline:
        raise CodebankError(Code.UNAVAILABLE, f"{len(wanted) - found} of {len(wanted)} never reached the {side}")
