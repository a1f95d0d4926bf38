"""Records that nobody could use: shipped to their topic, listed, and read again once what was wrong is mended.

A dead letter is written in the transaction of the position that passes its record, so none is skipped in silence; its
way to the topic is the outbox's: ship, then mark, and after a crash in between the tail of the topic tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from codebank.eventlog.log import EventLog, NewRecord, Record
from codebank.events import DEAD_LETTERS_TOPIC, STATEMENT_GROUP
from codebank.statement.applying import UNSTORABLE, SequenceGap, apply_late, cannot_store, read_event
from codebank.statement.store import dead_letters as store
from codebank.statement.store import projecting
from codebank.wire import MalformedEvent

#: Whoever holds this lock of the statement's database ships dead letters: one projector at a time.
_SHIPPING: Final = 0x6C657474
_BATCH: Final = 500
#: What a dead letter says of itself, beside the headers of its record; then the same in Kafka Connect's words.
REASON, TOPIC, PARTITION, OFFSET = (
    "dead_letter_reason",
    "dead_letter_topic",
    "dead_letter_partition",
    "dead_letter_offset",
)
READER: Final = "dead_letter_reader"
_CONNECT: Final = {
    REASON: "__connect.errors.exception.message",
    TOPIC: "__connect.errors.topic",
    PARTITION: "__connect.errors.partition",
    OFFSET: "__connect.errors.offset",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record stands that nobody could read."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @staticmethod
    def parse(text: str) -> Origin:
        """Read an origin as it is written. Raises ValueError for anything else."""
        topic, partition, offset = text.rsplit("/", 2)
        return Origin(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that nobody could read."""

    origin: Origin
    #: Who could not read it: `statement` or `search`.
    reader: str
    reason: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    at: datetime
    #: None while it still cannot be read.
    replayed_at: datetime | None = None
    #: When somebody decided that it never will be, and why.
    dismissed_at: datetime | None = None
    dismissed_because: str = ""
    #: How often it was put aside.
    times: int = 1

    @property
    def is_waiting(self) -> bool:
        """Whether nothing was decided about it yet."""
        return self.replayed_at is None and self.dismissed_at is None


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a dead letter that was read again."""

    origin: Origin
    #: `applied`, or what is still wrong.
    outcome: str

    @property
    def is_applied(self) -> bool:
        """Whether the statement has it now."""
        return self.outcome == "applied"


def record_of(dead: DeadLetter) -> NewRecord:
    """Write a dead letter as a record of their topic: every byte of it, and why it is there."""
    origin = {
        READER: dead.reader,
        REASON: dead.reason,
        TOPIC: dead.origin.topic,
        PARTITION: str(dead.origin.partition),
        OFFSET: str(dead.origin.offset),
    }
    return NewRecord(dead.key, dead.value, {**dead.headers, **origin})


def dead_letter_of(record: Record) -> DeadLetter | None:
    """Read a dead letter from its topic, ours or Kafka Connect's; None for anything else that lies there."""
    headers = dict(record.headers)
    reader = headers.pop(READER, "")
    names = {name: name for name in _CONNECT} if reader else _CONNECT
    try:
        origin = Origin(headers[names[TOPIC]], int(headers[names[PARTITION]]), int(headers[names[OFFSET]]))
    except (KeyError, ValueError):
        return None
    reason = headers.get(names[REASON], "")
    own = {name: value for name, value in headers.items() if not name.startswith(("dead_letter_", "__connect."))}
    return DeadLetter(origin, reader or "search", reason, record.key, record.value, own, record.appended_at)


async def ship_dead_letters(pool: asyncpg.Pool, log: EventLog) -> int:
    """Put dead letters on their topic that are not there yet; tell how many. None where another projector does it."""
    async with pool.acquire() as connection:
        waiting = await store.read_waiting(connection, _BATCH)
        if not waiting or not await connection.fetchval("select pg_try_advisory_lock($1)", _SHIPPING):
            return 0
        try:
            waiting = await store.read_waiting(connection, _BATCH)
            await _append_missing(log, [letter_of_row(row) for row in waiting])
            await store.mark_shipped(connection, waiting)
        finally:
            await connection.execute("select pg_advisory_unlock($1)", _SHIPPING)
    return len(waiting)


async def _append_missing(log: EventLog, waiting: Sequence[DeadLetter]) -> None:
    writer = await log.open_writer(DEAD_LETTERS_TOPIC)
    try:
        there = {one.origin for one in map(dead_letter_of, await writer.tail(_BATCH)) if one is not None}
        await writer.append([record_of(one) for one in waiting if one.origin not in there])
    finally:
        await writer.close()


def letter_of_row(row: asyncpg.Record, reader: str = STATEMENT_GROUP) -> DeadLetter:
    """Make a dead letter of what is kept of one."""
    return DeadLetter(
        Origin(row["topic"], row["partition"], row["offset"]),
        reader,
        row["reason"],
        row["key"],
        row["value"],
        row["headers"],
        row["at"],
        row["replayed_at"],
        row["dismissed_at"],
        row["dismissed_because"] or "",
    )


async def read_dead_letters(pool: asyncpg.Pool) -> list[DeadLetter]:
    """Read the statement's dead letters, the oldest first."""
    async with pool.acquire() as connection:
        return [letter_of_row(row) for row in await store.read_all(connection)]


async def replay(pool: asyncpg.Pool, origins: Sequence[Origin] | None) -> list[Replay]:
    """Read records again, all that wait where none is named; apply those that can be read now.

    Those of an account are applied in the order in which they lie on the log. Raises LookupError for an origin at which
    nothing was put aside.
    """
    known = {dead.origin: dead for dead in await read_dead_letters(pool)}
    if origins is None:
        origins = [origin for origin, dead in known.items() if dead.is_waiting]
    for origin in origins:
        if origin not in known:
            raise LookupError(f"no record at {origin} was put aside")
    in_order = sorted(origins, key=lambda origin: (origin.topic, origin.partition, origin.offset))
    return [Replay(origin, await _replay(pool, known[origin])) for origin in in_order]


async def dismiss_letter(pool: asyncpg.Pool, dead: DeadLetter, because: str) -> None:
    """Decide that a record will never be read by whoever put it aside."""
    table, origin = "dead_letter" if dead.reader == STATEMENT_GROUP else "search_letter", dead.origin
    async with pool.acquire() as connection:
        await store.dismiss(connection, table, origin.topic, origin.partition, origin.offset, because)


async def _replay(pool: asyncpg.Pool, dead: DeadLetter) -> str:
    origin = dead.origin
    try:
        event, line = read_event(dead.headers, dead.value, dead.key)
        async with pool.acquire() as connection, connection.transaction():
            # The projector must not pass a gap that this one excuses while it ceases to.
            await projecting.hold_position(connection, origin.topic, origin.partition)
            await apply_late(connection, event, line)
            await store.mark_replayed(connection, origin.topic, origin.partition, origin.offset)
    except (MalformedEvent, SequenceGap) as error:
        return str(error)
    except UNSTORABLE as error:
        return cannot_store(error)
    return "applied"
