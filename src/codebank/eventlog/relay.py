"""The relay: ships the outbox to the log, so that the log holds each event once, in order per account.

One relay leads, by a lease on the bank's database; others stand by. A session holds the lead, and makes itself heard
by every look at the outbox. A stand-by that heard nothing of it for as long as the lease lasts ends that session at the
server, and leads: a leader that hangs can remove nothing more, and the log refuses what it may still append.

Shipping a batch has two commits, one on the log and one on the outbox, the second with the reading of the next batch;
a crash may fall between them. So a relay that begins to lead first looks at the tail of the log and removes from the
outbox whatever is there already. That suffices because a batch is on the log whole or not at all, the next one is
shipped only after the last was removed, and no batch is larger than the tail that is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog import outbox
from codebank.eventlog.log import LOG_ERRORS, EventLog, Fenced, NewRecord, Record, Writer
from codebank.eventlog.outbox import OutboxRow
from codebank.eventlog.pace import Pace
from codebank.eventlog.waking import CHANNEL
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import connected, listening
from codebank.runtime.process import pause
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.runtime.watch.tracing import Tracer
from codebank.wire import TRACE_HEADER

log = logging.getLogger(__name__)

#: The largest batch that any relay ever ships, so that a tail of this size shows the last batch whole.
BATCH_CEILING: Final = 1000
#: A commit wakes the relay; should that be lost, it looks by itself.
_POLL_SECONDS: Final = 0.5
_REPORT_SECONDS: Final = 0.5
_BACK_OFF_SECONDS: Final = (0.1, 0.2, 0.5, 1, 2)


@dataclass
class Relay:
    """Ships the outbox of one bank."""

    bank_dsn: str
    log: EventLog
    telemetry: Telemetry
    batch_max: int = 500
    #: Silence of the leader after which a stand-by takes its place; longer than one batch takes to be on the log.
    lease_seconds: int = 20
    pace: Pace = field(default_factory=Pace)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, stop: asyncio.Event) -> None:
        """Lead or stand by until asked to stop; a batch under way is finished first."""
        batch_max = min(self.batch_max, BATCH_CEILING)
        failures = 0
        async with listening(self.bank_dsn, CHANNEL, lambda _payload: self._woken.set(), role="relay"):
            while not stop.is_set():
                try:
                    await self._lead(stop, batch_max)
                    failures = 0
                except (*LOG_ERRORS, Fenced) as error:
                    self.telemetry.ready.clear()
                    log.warning("relay begins anew: %s", error, extra=fields(error=type(error).__name__))
                    await pause(stop, _BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS) - 1)])
                    failures += 1

    async def _lead(self, stop: asyncio.Event, batch_max: int) -> None:
        """Lead on a connection of its own: whoever loses the connection loses the lead."""
        async with connected(self.bank_dsn, role="relay") as connection:
            if not await self._take_lead(connection, stop):
                return
            # Before the log is asked for anything: it may be down, and then the backlog is what one wants to see.
            await self._report(connection)
            writer = await self.log.open_writer(PAYMENTS_TOPIC)
            try:
                await self._keep_shipping(connection, writer, stop, batch_max)
            finally:
                self.telemetry.gauge("codebank_relay_leading").set(0)
                with contextlib.suppress(*LOG_ERRORS):
                    await writer.close()

    async def _keep_shipping(
        self, connection: asyncpg.Connection, writer: Writer, stop: asyncio.Event, batch_max: int
    ) -> None:
        await self._recover(connection, writer)
        self.telemetry.gauge("codebank_relay_leading").set(1)
        reported_at = float("-inf")
        rows: Sequence[OutboxRow] = ()
        while not (stop.is_set() and not rows):
            await self.pace.wait()
            # Cleared before looking: what is committed meanwhile wakes again.
            self._woken.clear()
            rows = await self._ship(connection, writer, rows, 0 if stop.is_set() else batch_max)
            if rows:
                self.pace.rest()
            if time.monotonic() - reported_at >= _REPORT_SECONDS:
                await self._report(connection)
                reported_at = time.monotonic()
            if not rows:
                await pause(self._woken, _POLL_SECONDS)

    async def _take_lead(self, connection: asyncpg.Connection, stop: asyncio.Event) -> bool:
        clock = asyncio.get_running_loop().time
        sign, seen_at = None, clock()
        while not stop.is_set():
            if await outbox.take_lead(connection):
                return True
            self.telemetry.ready.set()  # a stand-by is ready too
            # Whether the leader's stamp moves counts, by our own clock: the server's may be set back, or ahead.
            newest = await outbox.leader_sign(connection)
            if newest != sign:
                sign, seen_at = newest, clock()
            elif sign is not None and clock() - seen_at > self.lease_seconds and await outbox.depose(connection, sign):
                log.warning("the leading relay was silent; its lead is over", extra=fields(seconds=self.lease_seconds))
            await pause(stop, _POLL_SECONDS)
        return False

    async def _recover(self, connection: asyncpg.Connection, writer: Writer) -> None:
        tail = map(_event_id, await writer.tail(BATCH_CEILING))
        there = [event_id for event_id in tail if event_id is not None]
        removed = await outbox.remove_by_event(connection, there)
        if removed:
            log.info("relay found events on the log already", extra=fields(events=removed))
        self.telemetry.ready.set()

    async def _ship(
        self, connection: asyncpg.Connection, writer: Writer, shipped: Sequence[OutboxRow], batch_max: int
    ) -> Sequence[OutboxRow]:
        """Remove what the log has of the last batch, and ship the next; gives that one, to be removed."""
        started = time.perf_counter()
        rows = await outbox.take_batch(connection, shipped, batch_max)
        if rows:
            with _shipping(self.telemetry.tracer, rows) as records:
                await writer.append(records)
            self.telemetry.counter("codebank_relay_events_total").inc(len(rows))
            self.telemetry.histogram("codebank_relay_ship_seconds").observe(time.perf_counter() - started)
        return rows

    async def _report(self, connection: asyncpg.Connection) -> None:
        waiting = await outbox.backlog(connection)
        self.telemetry.gauge("codebank_outbox_events").set(waiting.events)
        self.telemetry.gauge("codebank_outbox_age_seconds").set(waiting.age_milliseconds / 1000)


@contextlib.contextmanager
def _shipping(tracer: Tracer, rows: Sequence[OutboxRow]) -> Iterator[list[NewRecord]]:
    """Give the records of a batch, those of traced events with our span as their place in the trace."""
    with contextlib.ExitStack() as spans:
        records = []
        for row in rows:
            record = row.record
            if tracer.is_on and (parent := record.headers.get(TRACE_HEADER)):
                kind, topic = "producer", PAYMENTS_TOPIC
                span = tracer.begin("ship", parent, kind, messaging__system="kafka", messaging__destination__name=topic)
                spans.callback(span.end)
                record = replace(record, headers={**record.headers, TRACE_HEADER: span.traceparent or parent})
            records.append(record)
        yield records


def _event_id(record: Record) -> UUID | None:
    """Read which event a record is; None for another program's, which the relay must outlive."""
    try:
        return UUID(record.headers.get("ce_id", ""))
    except ValueError:
        return None
