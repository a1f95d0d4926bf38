"""The projector: log → statement database. A batch of events, its lines and its positions are one transaction.

So a crash anywhere leaves all of a batch or nothing of it, and what is delivered again is recognised by the account's
sequence. A member that lost its partition cannot write: the position it would move from is no longer there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import LOG_ERRORS, EventLog, Fenced, Reader, Record
from codebank.events import PAYMENTS_TOPIC, STATEMENT_GROUP, Event
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.statement.dead_letters import ship_letters
from codebank.statement.line import Line, Step, line_of, step_of
from codebank.statement.store import dead_letters as letters
from codebank.statement.store import projecting as store
from codebank.wire import TRACE_HEADER, MalformedEvent, decode_event, utc_now

log = logging.getLogger(__name__)

_READ_SECONDS: Final = 0.5
_REPORT_SECONDS: Final = 1
_BACK_OFF_SECONDS: Final = (0.1, 0.5, 1, 2)


class SequenceGap(Exception):
    """An event of an account is missing: nothing after it may be shown as if it were whole."""


class PositionLost(Exception):
    """Another member has read this partition further; what this one made of it is thrown away."""


@dataclass
class _Batch:
    """What a batch of records makes of the statement."""

    sequences: dict[UUID, int]
    accounts: dict[UUID, Event] = field(default_factory=dict)
    lines: dict[UUID, Line] = field(default_factory=dict)
    applied: list[Event] = field(default_factory=list)
    dead: list[tuple[Record, str]] = field(default_factory=list)
    #: Accounts of unreadable records: a gap there has its cause, and is on record.
    excused: set[UUID] = field(default_factory=set)
    #: Account → where its newest event stands in its trace, if that is recorded.
    traces: Mapping[UUID, str] = field(default_factory=dict)


@dataclass
class Projector:
    """One member of the group that makes the statement."""

    pool: asyncpg.Pool
    log: EventLog
    telemetry: Telemetry
    member: str
    batch_max: int = 500
    #: Partition → nothing that is not stored yet is older.
    _whole_until: dict[int, datetime] = field(default_factory=dict, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until asked to stop; what was read but not stored is read again by whoever comes next."""
        reader = await self.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, self.member, self._positions)
        self.telemetry.ready.set()
        reporting = asyncio.create_task(self._keep_reporting(reader))
        failures = 0
        try:
            while not stop.is_set():
                try:
                    await self.step(reader)
                    failures = 0
                    self.telemetry.ready.set()
                except (*LOG_ERRORS, PositionLost, SequenceGap) as error:
                    if isinstance(error, SequenceGap):
                        self.telemetry.ready.clear()
                    log.log(
                        logging.ERROR if isinstance(error, SequenceGap) else logging.WARNING,
                        "projector begins anew: %s",
                        error,
                        extra=fields(error=type(error).__name__),
                    )
                    await _pause(stop, _BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS) - 1)])
                    failures += 1
        finally:
            reporting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporting
            with contextlib.suppress(*LOG_ERRORS):
                await reader.close()

    async def _positions(self, partitions: Collection[int]) -> Mapping[int, int]:
        async with self.pool.acquire() as connection:
            return await store.read_positions(connection, PAYMENTS_TOPIC, partitions)

    async def step(self, reader: Reader) -> int:
        """Read one batch and store it, partition by partition; tell how many events were stored."""
        records = await reader.read(self.batch_max, _READ_SECONDS)
        by_partition: dict[int, list[Record]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        stored, started = 0, time.perf_counter()
        failed: Exception | None = None
        for partition, mine in by_partition.items():
            try:
                stored += await self._store(mine)
            except Exception as error:
                # Only this partition stands still; it is read again from the position that was kept.
                with contextlib.suppress(*LOG_ERRORS):
                    kept = await self._positions([partition])
                    await reader.seek(partition, kept.get(partition, 0))
                failed = error
        if failed is not None:
            raise failed
        if records:
            self.telemetry.histogram("codebank_projector_batch_seconds").observe(time.perf_counter() - started)
        return stored

    async def _store(self, records: Sequence[Record]) -> int:
        first, last = records[0], records[-1]
        with self._traced(records) as traces:
            async with self.pool.acquire() as connection, connection.transaction():
                end = last.offset + 1
                moved = await store.move_position(connection, first.topic, first.partition, first.follows, end)
                if not moved:
                    raise PositionLost(f"partition {first.partition} is no longer at {first.follows}")
                batch = await apply_records(connection, records, traces)
        self._count(batch)
        # Records of a partition are in the order of their time.
        self._whole_until[last.partition] = last.appended_at
        return len(batch.applied)

    @contextlib.contextmanager
    def _traced(self, records: Sequence[Record]) -> Iterator[dict[UUID, str]]:
        """Record the storing of each traced event, and tell for each account where its newest one stands."""
        traces: dict[UUID, str] = {}
        with contextlib.ExitStack() as spans:
            for record in records if self.telemetry.tracer.is_on else ():
                parent, account = record.headers.get(TRACE_HEADER, ""), _account_of(record)
                span = self.telemetry.tracer.begin(
                    "store",
                    parent,
                    "consumer",
                    messaging__system="kafka",
                    messaging__destination__name=record.topic,
                    messaging__destination__partition__id=str(record.partition),
                    messaging__kafka__offset=record.offset,
                )
                spans.callback(span.end)
                if account is not None and span.traceparent:
                    traces[account] = span.traceparent
            yield traces

    def _count(self, batch: _Batch) -> None:
        now = utc_now()
        delay = self.telemetry.histogram("codebank_projector_delay_seconds")
        for event in batch.applied:
            self.telemetry.counter("codebank_projector_events_total", event.type).inc()
            delay.observe(max(0, (now - event.occurred_at).total_seconds()))
        for record, reason in batch.dead:
            self.telemetry.counter("codebank_dead_letters_total").inc()
            log.error(
                "a record was put aside",
                extra=fields(partition=record.partition, offset=record.offset, reason=reason),
            )

    async def _keep_reporting(self, reader: Reader) -> None:
        """Tell how far behind the statement is, and ship what was put aside; beside the reading, not in its way."""
        while True:
            try:
                await self._report_lag(reader)
                await ship_letters(self.pool, self.log)
            except (*LOG_ERRORS, Fenced) as error:
                log.debug("no report: %s", error)
            await asyncio.sleep(_REPORT_SECONDS)

    async def _report_lag(self, reader: Reader) -> None:
        assigned = reader.assigned
        ends = await self.log.ends(PAYMENTS_TOPIC)
        kept = await self._positions(assigned)
        behind = {partition: end - kept.get(partition, 0) for partition, end in ends.items()}
        now = utc_now()
        for partition in ends:
            # Of a partition that another member reads, that one tells.
            lag = max(0, behind[partition]) if partition in assigned else 0
            if not lag:
                self._whole_until[partition] = now
            age_seconds = (now - self._whole_until.setdefault(partition, now)).total_seconds()
            self.telemetry.gauge("codebank_projector_lag_events", str(partition)).set(lag)
            self.telemetry.gauge("codebank_projector_lag_seconds", str(partition)).set(max(0.0, age_seconds))
        async with self.pool.acquire() as connection:
            await store.mark_caught_up(connection, [one for one in assigned if behind.get(one, 1) <= 0])
            waiting = await letters.count_waiting(connection)
        self.telemetry.gauge("codebank_dead_letters_waiting").set(waiting)


async def apply_records(
    connection: Connection, records: Sequence[Record], traces: Mapping[UUID, str] | None = None
) -> _Batch:
    """Write what records of one partition make of the statement, within the caller's transaction.

    `traces` go to the pages that are woken.

    Raises SequenceGap where an event of an account is missing before one that is there.
    """
    batch = await _read_batch(connection, records)
    batch.traces = traces or {}
    await _write_batch(connection, batch)
    return batch


async def _read_batch(connection: Connection, records: Sequence[Record]) -> _Batch:
    accounts = {account for account in map(_account_of, records) if account is not None}
    batch = _Batch(await store.read_sequences(connection, accounts))
    batch.excused = await store.read_excused(connection, accounts)
    for record in records:
        try:
            event = decode_event(record.headers, record.value)
        except MalformedEvent as error:
            batch.dead.append((record, str(error)))
            if (account := _account_of(record)) is not None:
                batch.excused.add(account)
            continue
        _apply(batch, event)
    return batch


def _account_of(record: Record) -> UUID | None:
    try:
        return UUID(record.key.decode())
    except ValueError:
        return None


def _apply(batch: _Batch, event: Event) -> None:
    last = batch.sequences.get(event.account_id, 0)
    step = step_of(event.sequence, last)
    if step is Step.REPEAT:
        return
    if step is Step.GAP and event.account_id not in batch.excused:
        raise SequenceGap(f"account {event.account_id}: event {event.sequence} came after {last}")
    batch.sequences[event.account_id] = event.sequence
    batch.accounts[event.account_id] = event
    batch.applied.append(event)
    line = line_of(event)
    if line is not None:
        earlier = batch.lines.get(line.payment_id)
        if earlier is not None:
            # A payment that was made and given back within one batch keeps the place of its first event.
            line = replace(line, first_sequence=earlier.first_sequence, available_minor=earlier.available_minor)
        batch.lines[line.payment_id] = line


async def _write_batch(connection: Connection, batch: _Batch) -> None:
    if batch.accounts:
        await store.write_accounts(connection, list(batch.accounts.values()))
    if batch.lines:
        await store.write_lines(connection, list(batch.lines.values()))
    if batch.dead:
        await store.write_dead_letters(connection, batch.dead)
    for account_id, event in batch.accounts.items():
        await store.announce(connection, account_id, event.sequence, batch.traces.get(account_id, ""))


async def _pause(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
