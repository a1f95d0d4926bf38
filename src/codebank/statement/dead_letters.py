"""Records that nobody could read: shipped to their topic, listed, and read again once what was wrong is mended.

A letter is written in the transaction of the position that passes its record, so none is skipped in silence; its way
to the topic is the outbox's: ship, then mark, and after a crash in between the tail of the topic tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from codebank.eventlog.log import EventLog, NewRecord, Record
from codebank.events import DEAD_LETTERS_TOPIC, STATEMENT_GROUP, Event
from codebank.runtime.postgres.pool import Connection
from codebank.statement.line import line_of
from codebank.statement.store import dead_letters as store
from codebank.statement.store import projecting
from codebank.wire import MalformedEvent, decode_event, utc_now

#: Whoever holds this lock of the statement's database ships letters: one projector at a time.
_SHIPPING: Final = 0x6C657474
_BATCH: Final = 500
#: What a letter says of itself, beside the headers of its record; then the same in Kafka Connect's words.
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
class Letter:
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


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of a letter that was read again."""

    origin: Origin
    #: `applied`, or what is still wrong.
    outcome: str

    @property
    def is_applied(self) -> bool:
        """Whether the statement has it now."""
        return self.outcome == "applied"


def record_of(letter: Letter) -> NewRecord:
    """Write a letter as a record of the letters' topic: every byte of it, and why it is there."""
    origin = {
        READER: letter.reader,
        REASON: letter.reason,
        TOPIC: letter.origin.topic,
        PARTITION: str(letter.origin.partition),
        OFFSET: str(letter.origin.offset),
    }
    return NewRecord(letter.key, letter.value, {**letter.headers, **origin})


def letter_of(record: Record) -> Letter | None:
    """Read a letter from its topic, ours or Kafka Connect's; None for anything else that lies there."""
    headers = dict(record.headers)
    reader = headers.pop(READER, "")
    names = {name: name for name in _CONNECT} if reader else _CONNECT
    try:
        origin = Origin(headers[names[TOPIC]], int(headers[names[PARTITION]]), int(headers[names[OFFSET]]))
    except (KeyError, ValueError):
        return None
    reason = headers.get(names[REASON], "")
    own = {name: value for name, value in headers.items() if not name.startswith(("dead_letter_", "__connect."))}
    return Letter(origin, reader or "search", reason, record.key, record.value, own, record.appended_at)


async def ship_letters(pool: asyncpg.Pool, log: EventLog) -> int:
    """Put letters on their topic that are not there yet; tell how many. Nothing where another projector does it."""
    async with pool.acquire() as connection:
        waiting = await store.read_waiting(connection, _BATCH)
        if not waiting or not await connection.fetchval("select pg_try_advisory_lock($1)", _SHIPPING):
            return 0
        try:
            waiting = await store.read_waiting(connection, _BATCH)
            letters = [_of_row(row) for row in waiting]
            await _append_missing(log, letters)
            await store.mark_shipped(connection, waiting)
        finally:
            await connection.execute("select pg_advisory_unlock($1)", _SHIPPING)
    return len(letters)


async def _append_missing(log: EventLog, letters: Sequence[Letter]) -> None:
    writer = await log.open_writer(DEAD_LETTERS_TOPIC)
    try:
        there = {letter.origin for letter in map(letter_of, await writer.tail(_BATCH)) if letter is not None}
        await writer.append([record_of(letter) for letter in letters if letter.origin not in there])
    finally:
        await writer.close()


def _of_row(row: asyncpg.Record) -> Letter:
    return Letter(
        Origin(row["topic"], row["partition"], row["offset"]),
        STATEMENT_GROUP,
        row["reason"],
        row["key"],
        row["value"],
        row["headers"],
        row["at"],
        row["replayed_at"],
    )


async def read_letters(pool: asyncpg.Pool) -> list[Letter]:
    """Read the statement's letters, the oldest first."""
    async with pool.acquire() as connection:
        return [_of_row(row) for row in await store.read_all(connection)]


async def replay(pool: asyncpg.Pool, origins: Sequence[Origin] | None) -> list[Replay]:
    """Read letters again, all that were never applied where none is named; apply those that can be read now.

    Raises LookupError for an origin of which there is no letter.
    """
    known = {letter.origin: letter for letter in await read_letters(pool)}
    if origins is None:
        origins = [origin for origin, letter in known.items() if letter.replayed_at is None]
    done = []
    for origin in origins:
        if origin not in known:
            raise LookupError(f"no record at {origin} was put aside")
        done.append(Replay(origin, await _replay(pool, known[origin])))
    return done


async def _replay(pool: asyncpg.Pool, letter: Letter) -> str:
    try:
        event = decode_event(letter.headers, letter.value)
    except MalformedEvent as error:
        return str(error)
    async with pool.acquire() as connection, connection.transaction():
        await _apply_late(connection, event)
        await store.mark_replayed(connection, letter.origin.topic, letter.origin.partition, letter.origin.offset)
    return "applied"


async def _apply_late(connection: Connection, event: Event) -> None:
    """Apply an event whose followers may be there already: what they changed stays as they left it."""
    await projecting.write_accounts(connection, [event])
    line = line_of(event)
    if line is not None:
        await projecting.write_lines(connection, [line])
    await projecting.announce(connection, event.account_id, event.sequence, "")


def age_of(letter: Letter) -> int:
    """Tell how many seconds ago a record was put aside."""
    return max(0, round((utc_now() - letter.at).total_seconds()))
