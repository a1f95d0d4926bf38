"""What records of one partition make of the statement, within the caller's transaction.

Each account's events are applied in order, each once. A record that cannot be read, shown or stored is put aside with
its reason and stops nobody; an event that is missing without that stops its partition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import asyncpg

from codebank.civil import local_day
from codebank.eventlog.log import Record
from codebank.events import Event, key_of
from codebank.runtime.postgres.pool import Connection
from codebank.statement.excuse import NUMBER_MAX, Excuse, Excuses, number_on_record
from codebank.statement.line import Line, Step, line_of, step_of
from codebank.statement.store import dead_letters
from codebank.statement.store import projecting as store
from codebank.statement.store.projecting import Move, StatementMoved, Wake
from codebank.wire import MalformedEvent, decode_event

#: What the database says of a value that it cannot hold: no repetition would heal that.
UNSTORABLE: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_REASON_LENGTH_MAX: Final = 300
_BIGINT_MAX: Final = 2**63 - 1
_ZERO: Final = rb"\u0000"


class SequenceGap(Exception):
    """An event of an account is missing: nothing after it may be shown as if it were whole."""


#: Why a batch is not written as it came, but looked at partition by partition, and record by record if need be.
NOT_PLAIN: Final = (StatementMoved, SequenceGap, MalformedEvent, *UNSTORABLE)


@dataclass(frozen=True, slots=True)
class NewDeadLetter:
    """A record that becomes a dead letter."""

    record: Record
    reason: str
    #: None where nobody can tell whose it is.
    excuse: Excuse | None


@dataclass
class Batch:
    """What a batch of records makes of the statement."""

    #: Account → number of the last event that was applied.
    sequences: dict[UUID, int]
    excuses: Excuses
    accounts: dict[UUID, Event] = field(default_factory=dict)
    lines: dict[UUID, Line] = field(default_factory=dict)
    applied: list[Event] = field(default_factory=list)
    put_aside: list[NewDeadLetter] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AppliedRecords:
    """What was done with records."""

    events: Sequence[Event]
    put_aside: Sequence[NewDeadLetter]


def account_of(record: Record) -> UUID | None:
    """Tell whose record it is, by its key; None where that names no account."""
    try:
        account_id = UUID(record.key.decode())
    except ValueError:
        return None
    return account_id if key_of(account_id) == record.key else None


def read_event(headers: Mapping[str, str], value: bytes, key: bytes) -> tuple[Event, Line | None]:
    """Read an event and the line that it makes. Raises MalformedEvent where there is no such thing."""
    event = decode_event(headers, value, key)
    if event.sequence > NUMBER_MAX:
        raise MalformedEvent(f"sequence {event.sequence} is not a number of an event")
    if event.occurred_at.tzinfo is None:
        raise MalformedEvent("its time has no zone")
    try:
        local_day(event.occurred_at)
        line = line_of(event)
    except (ValueError, OverflowError) as error:
        raise MalformedEvent(f"no line can be made of it: {error}") from None
    if problem := _unstorable(event, line, value):
        raise MalformedEvent(f"it cannot be stored: {problem}")
    return event, line


def _unstorable(event: Event, line: Line | None, value: bytes) -> str:
    """Say what the database would refuse, also of what a later event of the same batch would cover; "" for nothing.

    So what becomes a dead letter does not depend on what came with it. What is overlooked here is still refused there.
    """
    state = event.account
    if not all(abs(number) <= _BIGINT_MAX for number in (state.limit_minor, state.used_minor, state.available_minor)):
        return "an amount of its account is out of range"
    # JSON has one way to write a zero character; looking for it in the bytes first costs next to nothing.
    if _ZERO in value:
        texts = [state.holder_name, state.status, state.currency]
        if line is not None:
            texts += [line.search_text, line.merchant_category, line.currency, line.status, line.decline_code or ""]
        if any("\0" in text for text in texts):
            return "a text in it holds a zero character"
    return ""


def cannot_store(error: Exception) -> str:
    """Say in a line why the database does not take something."""
    return f"it cannot be stored: {str(error).splitlines()[0]}"[:_REASON_LENGTH_MAX]


async def apply_plainly(
    connection: Connection, moves: Sequence[Move], records: Sequence[Record], traces: Mapping[UUID, str]
) -> AppliedRecords:
    """Write what records of any partitions make of the statement, and how far those were read: all or nothing.

    What it was made on is read without any lock: it is written only where the positions and the accounts' last events
    are the same still, and whoever changes a statement otherwise changes one of the two. Raises one of NOT_PLAIN,
    with nothing written, where something must be looked at more closely, by `apply_records`.
    """
    accounts = {account for account in map(account_of, records) if account is not None}
    known = await store.read_sequences(connection, accounts)
    batch = Batch(dict(known), Excuses({}))
    for record in records:
        add(batch, *read_event(record.headers, record.value, record.key))
    last_events = [(known.get(account_id, 0), event) for account_id, event in batch.accounts.items()]
    await store.write_batch(connection, moves, last_events, list(batch.lines.values()), wakes_of(batch, traces))
    return AppliedRecords(batch.applied, batch.put_aside)


def wakes_of(batch: Batch, traces: Mapping[UUID, str]) -> list[Wake]:
    """Say which pages are to be woken."""
    return [Wake(account, event.sequence, traces.get(account, "")) for account, event in batch.accounts.items()]


async def apply_records(
    connection: Connection, records: Sequence[Record], traces: Mapping[UUID, str] | None = None
) -> AppliedRecords:
    """Write what records of one partition make of the statement; `traces` go to the pages that are woken.

    Raises SequenceGap where an event of an account is missing before one that is there.
    """
    try:
        return await _apply(connection, records, traces or {})
    except UNSTORABLE:
        # Something in there decodes and cannot be stored. One by one, so that nothing waits behind it for ever.
        done = [await _apply_alone(connection, record, traces or {}) for record in records]
    return AppliedRecords(
        [event for one in done for event in one.events], [aside for one in done for aside in one.put_aside]
    )


async def _apply_alone(connection: Connection, record: Record, traces: Mapping[UUID, str]) -> AppliedRecords:
    try:
        return await _apply(connection, [record], traces)
    except UNSTORABLE as error:
        return await _apply(connection, [record], traces, refusal=cannot_store(error))


async def _apply(
    connection: Connection, records: Sequence[Record], traces: Mapping[UUID, str], refusal: str = ""
) -> AppliedRecords:
    async with connection.transaction():
        batch = await _read(connection, records, refusal)
        await _write(connection, batch, traces)
    return AppliedRecords(batch.applied, batch.put_aside)


async def _read(connection: Connection, records: Sequence[Record], refusal: str) -> Batch:
    accounts = {account for account in map(account_of, records) if account is not None}
    on_file = await dead_letters.read_excuses(connection, accounts)
    batch = Batch(await store.read_sequences(connection, accounts), Excuses(on_file))
    for record in records:
        try:
            if refusal:
                raise MalformedEvent(refusal)
            event, line = read_event(record.headers, record.value, record.key)
        except MalformedEvent as error:
            # One that is delivered again, such as after the position was set back, stands for what it stood for then.
            if not await dead_letters.is_on_file(connection, record):
                put_aside(batch, record, str(error))
        else:
            add(batch, event, line)
    return batch


def put_aside(batch: Batch, record: Record, reason: str) -> None:
    """Put a record aside that is no event of ours, with the number that it stands for."""
    account_id, excuse = account_of(record), None
    if account_id is not None:
        told = number_on_record(record.headers, record.value, account_id)
        excuse = batch.excuses.add(account_id, told, batch.sequences.get(account_id, 0))
    batch.put_aside.append(NewDeadLetter(record, reason, excuse))


def add(batch: Batch, event: Event, line: Line | None) -> None:
    """Add an event to a batch, unless it was applied before. Raises SequenceGap where one before it is lost."""
    last = batch.sequences.get(event.account_id, 0)
    step = step_of(event.sequence, last)
    if step is Step.REPEAT:
        return
    if step is Step.GAP and not batch.excuses.cover(event.account_id, last, event.sequence):
        raise SequenceGap(f"account {event.account_id}: event {event.sequence} came after {last}")
    batch.sequences[event.account_id] = event.sequence
    batch.accounts[event.account_id] = event
    batch.applied.append(event)
    if line is not None:
        earlier = batch.lines.get(line.payment_id)
        if earlier is not None:
            # A payment that was made and given back within one batch keeps the place of its first event.
            line = replace(line, first_sequence=earlier.first_sequence, available_minor=earlier.available_minor)
        batch.lines[line.payment_id] = line


async def _write(connection: Connection, batch: Batch, traces: Mapping[UUID, str]) -> None:
    if batch.accounts:
        await store.write_accounts(connection, list(batch.accounts.values()))
    if batch.lines:
        await store.write_lines(connection, list(batch.lines.values()))
    if batch.put_aside:
        await dead_letters.write(connection, [(one.record, one.reason, one.excuse) for one in batch.put_aside])
    await store.announce(connection, wakes_of(batch, traces))


async def apply_late(connection: Connection, event: Event, line: Line | None) -> None:
    """Apply an event whose followers may be there already: what they changed stays as they left it.

    Raises SequenceGap where one before it is lost: applying it would hide the loss.
    """
    account_id = event.account_id
    last = (await store.read_sequences(connection, [account_id])).get(account_id, 0)
    excuses = Excuses(await dead_letters.read_excuses(connection, [account_id]))
    if not excuses.cover(account_id, last, event.sequence):
        raise SequenceGap(f"an event of the account is missing before it: {event.sequence} would come after {last}")
    if event.sequence > last:
        await dead_letters.move_place(connection, account_id, last, event.sequence)
    await store.write_accounts(connection, [event])
    if line is not None:
        await store.write_lines(connection, [line])
    await store.announce(connection, [Wake(account_id, event.sequence, "")])
