"""The projector: log → statement database. A batch of events, its lines and its positions are one transaction.

So a crash anywhere leaves all of a batch or nothing of it, and what is delivered again is recognised by the account's
sequence. A member that lost its partition cannot write: the position it would move from is no longer there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import EventLog, Reader, Record
from codebank.events import PAYMENTS_TOPIC, Event
from codebank.runtime.database import CONNECTION_ERRORS, Connection
from codebank.runtime.telemetry import Telemetry, fields
from codebank.statement.line import Line, Step, line_of, step_of
from codebank.statement.store import projecting as store
from codebank.wire import MalformedEvent, decode_event, utc_now

log = logging.getLogger(__name__)

GROUP: Final = "statement"
_READ_SECONDS: Final = 0.5
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


@dataclass
class Projector:
    """One member of the group that makes the statement."""

    pool: asyncpg.Pool
    log: EventLog
    telemetry: Telemetry
    member: str
    batch_max: int = 500

    async def run(self, stop: asyncio.Event) -> None:
        """Read and store until asked to stop; what was read but not stored is read again by whoever comes next."""
        reader = await self.log.open_reader(PAYMENTS_TOPIC, GROUP, self.member, self._positions)
        self.telemetry.ready.set()
        failures = 0
        try:
            while not stop.is_set():
                try:
                    await self.step(reader)
                    failures = 0
                    self.telemetry.ready.set()
                except (*CONNECTION_ERRORS, PositionLost, SequenceGap) as error:
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
            with contextlib.suppress(*CONNECTION_ERRORS):
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
        stored = 0
        failed: Exception | None = None
        for partition, mine in by_partition.items():
            try:
                stored += await self._store(mine)
            except Exception as error:
                # Only this partition stands still; it is read again from the position that was kept.
                with contextlib.suppress(*CONNECTION_ERRORS):
                    kept = await self._positions([partition])
                    await reader.seek(partition, kept.get(partition, 0))
                failed = error
        if failed is not None:
            raise failed
        if records:
            await self._report_lag(reader)
        return stored

    async def _store(self, records: Sequence[Record]) -> int:
        first, last = records[0], records[-1]
        async with self.pool.acquire() as connection, connection.transaction():
            moved = await store.move_position(connection, first.topic, first.partition, first.offset, last.offset + 1)
            if not moved:
                raise PositionLost(f"partition {first.partition} is no longer at {first.offset}")
            batch = await _read_batch(connection, records)
            await _write_batch(connection, batch)
        self._count(batch)
        return len(batch.applied)

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

    async def _report_lag(self, reader: Reader) -> None:
        ends = await self.log.ends(PAYMENTS_TOPIC)
        kept = await self._positions(reader.assigned)
        for partition in reader.assigned:
            behind = ends.get(partition, 0) - kept.get(partition, 0)
            self.telemetry.gauge("codebank_projector_lag_events", str(partition)).set(behind)


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
        await store.announce(connection, account_id, event.sequence)


async def _pause(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
