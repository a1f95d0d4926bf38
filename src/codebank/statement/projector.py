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
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import LOG_ERRORS, PARTITIONS, EventLog, Fenced, LogUnavailable, Reader, Record
from codebank.events import EVENT_TYPES, PAYMENTS_TOPIC, STATEMENT_GROUP
from codebank.runtime.process import background, pause
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.statement.applying import (
    NOT_PLAIN,
    AppliedRecords,
    SequenceGap,
    account_of,
    apply_plainly,
    apply_records,
)
from codebank.statement.dead_letters import ship_dead_letters
from codebank.statement.lag import Lag
from codebank.statement.search_letters import gather_search_letters
from codebank.statement.store import dead_letters, search_letters
from codebank.statement.store import projecting as store
from codebank.wire import TRACE_HEADER, utc_now

log = logging.getLogger(__name__)

_READ_SECONDS: Final = 0.5
_REPORT_SECONDS: Final = 1
_BACK_OFF_SECONDS: Final = (0.1, 0.5, 1, 2)


class PositionLost(Exception):
    """Another member has read this partition further; what this one made of it is thrown away."""


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
    _lag: Lag = field(init=False)
    #: Partitions of which it was said that their position is past the log's end.
    _beyond: set[int] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self._lag = Lag(self._whole_until)

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until asked to stop; what was read but not stored is read again by whoever comes next."""
        reader = await self.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, self.member, self._positions)
        try:
            async with background(self._keep_reporting(reader)):
                await self._keep_storing(reader, stop)
        finally:
            with contextlib.suppress(*LOG_ERRORS):
                await reader.close()

    async def _keep_storing(self, reader: Reader, stop: asyncio.Event) -> None:
        self.telemetry.ready.set()
        failures = 0
        while not stop.is_set():
            try:
                await self.step(reader)
                failures = 0
                self.telemetry.ready.note("store", does=True)
            except (*LOG_ERRORS, PositionLost, SequenceGap) as error:
                # A lost position hinders nobody: another member does the work of its partition.
                self.telemetry.ready.note("store", does=isinstance(error, PositionLost))
                log.log(
                    logging.ERROR if isinstance(error, SequenceGap) else logging.WARNING,
                    "projector begins anew: %s",
                    error,
                    extra=fields(error=type(error).__name__),
                )
                await pause(stop, _BACK_OFF_SECONDS[min(failures, len(_BACK_OFF_SECONDS) - 1)])
                failures += 1

    async def _kept(self, partitions: Collection[int]) -> Mapping[int, int]:
        async with self.pool.acquire() as connection:
            return await store.read_positions(connection, PAYMENTS_TOPIC, partitions)

    async def _positions(self, partitions: Collection[int]) -> Mapping[int, int]:
        async with self.pool.acquire() as connection:
            await store.prepare_positions(connection, PAYMENTS_TOPIC, partitions)
        return await self._kept(partitions)

    async def step(self, reader: Reader) -> int:
        """Read one batch and store it; tell how many events were stored."""
        records = await reader.read(self.batch_max, _READ_SECONDS)
        if not records:
            return 0
        started = time.perf_counter()
        by_partition: dict[int, list[Record]] = {}
        for record in records:
            by_partition.setdefault(record.partition, []).append(record)
        try:
            stored = await self._store_together(list(by_partition.values()))
        except NOT_PLAIN:
            stored = await self._store_apart(reader, by_partition)
        except Exception:
            await self._go_back(reader, by_partition)
            raise
        self.telemetry.histogram("codebank_projector_batch_seconds").observe(time.perf_counter() - started)
        return stored

    async def _store_together(self, parts: Sequence[Sequence[Record]]) -> int:
        """Store the records of all partitions by one commit. Raises one of NOT_PLAIN, and has stored nothing then."""
        records = [record for part in parts for record in part]
        with self._traced(records) as traces:
            async with self.pool.acquire() as connection:
                applied = await apply_plainly(connection, [_move(part) for part in parts], records, traces)
        return self._stored(applied, parts)

    async def _store_apart(self, reader: Reader, by_partition: Mapping[int, Sequence[Record]]) -> int:
        """Store partition by partition, so that one that must stand still holds up no other."""
        stored, failed = 0, None
        for partition, mine in by_partition.items():
            try:
                stored += await self._store(mine)
            except Exception as error:
                # Only this partition stands still; it is read again from the position that was kept.
                await self._go_back(reader, [partition])
                failed = error
        if failed is not None:
            raise failed
        return stored

    async def _go_back(self, reader: Reader, partitions: Collection[int]) -> None:
        with contextlib.suppress(*LOG_ERRORS):
            kept = await self._kept(partitions)
            for partition in partitions:
                await reader.seek(partition, kept.get(partition, 0))

    async def _store(self, records: Sequence[Record]) -> int:
        """Store the records of one partition, and put aside what nobody can read."""
        move = _move(records)
        with self._traced(records) as traces:
            async with self.pool.acquire() as connection, connection.transaction():
                if not await store.move_position(connection, *move):
                    raise PositionLost(f"partition {move.partition} is no longer at {move.before}")
                applied = await apply_records(connection, records, traces)
        return self._stored(applied, [records])

    def _stored(self, applied: AppliedRecords, parts: Sequence[Sequence[Record]]) -> int:
        self._count(applied)
        for part in parts:
            # Records of a partition are in the order of their time.
            self._whole_until[part[-1].partition] = part[-1].appended_at
        return len(applied.events)

    @contextlib.contextmanager
    def _traced(self, records: Sequence[Record]) -> Iterator[dict[UUID, str]]:
        """Record the storing of each traced event, and tell for each account where its newest one stands."""
        traces: dict[UUID, str] = {}
        with contextlib.ExitStack() as spans:
            for record in records if self.telemetry.tracer.is_on else ():
                parent, account = record.headers.get(TRACE_HEADER, ""), account_of(record)
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

    def _count(self, applied: AppliedRecords) -> None:
        now = utc_now()
        delay = self.telemetry.histogram("codebank_projector_delay_seconds")
        for event in applied.events:
            # A newer bank's types are counted together: a label must not have as many values as somebody likes.
            kind = event.type if event.type in EVENT_TYPES else "other"
            self.telemetry.counter("codebank_projector_events_total", kind).inc()
            delay.observe(max(0, (now - event.occurred_at).total_seconds()))
        for one in applied.put_aside:
            self.telemetry.counter("codebank_dead_letters_total").inc()
            log.error(
                "a record was put aside",
                extra=fields(partition=one.record.partition, offset=one.record.offset, reason=one.reason),
            )

    async def _keep_reporting(self, reader: Reader) -> None:
        """Tell how far behind the statement is, and ship what was put aside; beside the reading, not in its way."""
        while True:
            try:
                await self._report_lag(reader)
                await ship_dead_letters(self.pool, self.log)
                await self._report_letters()
                self.telemetry.ready.note("report", does=True)
            except Fenced as error:
                log.debug("another projector ships: %s", error)
            except LOG_ERRORS as error:
                self.telemetry.ready.note("report", does=False)
                log.warning("no report: %s", error, extra=fields(error=type(error).__name__))
            await asyncio.sleep(_REPORT_SECONDS)

    async def _report_lag(self, reader: Reader) -> None:
        """Tell of every partition, whoever reads it: one that nobody reads is behind like any other."""
        assigned = reader.assigned
        kept = await self._kept(range(PARTITIONS))
        async with self.pool.acquire() as connection:
            caught_up = await store.read_caught_up(connection)
        # After the positions, which are never ahead of it then.
        ends = await self.log.ends(PAYMENTS_TOPIC)
        found = self._lag.look(ends, kept, assigned, caught_up, utc_now())
        for partition, one in found.items():
            self.telemetry.gauge("codebank_projector_lag_events", str(partition)).set(one.events)
            self.telemetry.gauge("codebank_projector_lag_seconds", str(partition)).set(one.age_seconds)
        self._report_beyond([partition for partition, one in found.items() if one.is_beyond], kept, ends)
        async with self.pool.acquire() as connection:
            whole = [one for one in assigned if one in ends and kept.get(one, 0) == ends[one]]
            await store.mark_caught_up(connection, whole)

    def _report_beyond(self, beyond: Sequence[int], kept: Mapping[int, int], ends: Mapping[int, int]) -> None:
        for partition in set(beyond) - self._beyond:
            log.error(
                "the statement has read further than the log goes: was the topic made anew?",
                extra=fields(partition=partition, position=kept[partition], end=ends[partition]),
            )
        self._beyond = set(beyond)
        self.telemetry.gauge("codebank_projector_positions_beyond").set(len(beyond))
        self.telemetry.ready.note("positions", does=not beyond)

    async def _report_letters(self) -> None:
        try:
            await gather_search_letters(self.pool, self.log)
        except LogUnavailable as error:
            # Letters of the search hinder no line.
            log.warning("letters of the search are not counted: %s", error)
        async with self.pool.acquire() as connection:
            waiting = await dead_letters.count_waiting(connection)
            of_search = await search_letters.count_waiting(connection)
            dismissed = await dead_letters.count_dismissed(connection)
        self.telemetry.gauge("codebank_dead_letters_waiting").set(waiting)
        self.telemetry.gauge("codebank_search_dead_letters_waiting").set(of_search)
        self.telemetry.gauge("codebank_dead_letters_dismissed").set(dismissed)


def _move(records: Sequence[Record]) -> store.Move:
    """Say how far the records of a partition lead."""
    first, last = records[0], records[-1]
    return store.Move(first.topic, first.partition, first.follows, last.offset + 1)
