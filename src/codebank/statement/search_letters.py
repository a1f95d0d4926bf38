"""What Kafka Connect put aside for the search index: gathered from its topic, so that it is counted and decided on.

Connect writes a letter each time it cannot index a record, however often it meets it. Here a record is one letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from codebank.eventlog.log import EventLog, Record
from codebank.events import SEARCH_DEAD_LETTERS_TOPIC
from codebank.statement.dead_letters import DeadLetter, Origin, dead_letter_of, letter_of_row
from codebank.statement.store import search_letters as store

#: Who could not read these.
SEARCH_READER: Final = "search"
_BATCH: Final = 500
#: What a partition's and an offset's number may be at most in the database; whoever names more names no record.
_PARTITION_MAX: Final = 2**31 - 1
_OFFSET_MAX: Final = 2**63 - 1


async def gather_search_letters(pool: asyncpg.Pool, log: EventLog) -> None:
    """Read the letters' topic on to its end. Does nothing where there is none, as on the embedded log."""
    ends = await log.ends(SEARCH_DEAD_LETTERS_TOPIC)
    if not ends:
        return
    while await _gather_some(pool, log, ends):
        pass


async def _gather_some(pool: asyncpg.Pool, log: EventLog, ends: dict[int, int]) -> bool:
    """Read a piece of each partition; tell whether there is more."""
    more = False
    async with pool.acquire() as connection, connection.transaction():
        kept = await store.read_positions(connection)
        for partition, end in ends.items():
            position = kept.get(partition, 0)
            if position > end:
                # The topic was made anew. Letters are known by their records, so none is counted twice.
                position = 0
            if position == end:
                continue
            records = await log.scan(SEARCH_DEAD_LETTERS_TOPIC, partition, position, _BATCH)
            await store.write(connection, [row for row in map(_row, records) if row is not None])
            position = records[-1].offset + 1 if records else end
            await store.put_position(connection, partition, position)
            more = more or position < end
    return more


def _row(record: Record) -> store.Row | None:
    dead = dead_letter_of(record)
    if dead is None:
        return None
    origin = dead.origin
    if not (0 <= origin.partition <= _PARTITION_MAX and 0 <= origin.offset <= _OFFSET_MAX):
        return None
    return store.Row(
        origin.topic, origin.partition, origin.offset, dead.reason, dead.key, dead.value, dead.headers, dead.at
    )


async def read_search_letters(pool: asyncpg.Pool) -> list[DeadLetter]:
    """Read the letters of the search, the oldest first."""
    async with pool.acquire() as connection:
        return [
            replace(letter_of_row(row, SEARCH_READER), times=row["times"]) for row in await store.read_all(connection)
        ]


async def settle_replayed(pool: asyncpg.Pool, before: Sequence[DeadLetter]) -> dict[Origin, str]:
    """Say what became of letters whose records the connector has passed again: `applied`, or why one was not."""
    async with pool.acquire() as connection:
        for dead in before:
            origin = dead.origin
            await store.mark_replayed(connection, origin.topic, origin.partition, origin.offset, dead.times)
    return {
        now.origin: "applied" if now.replayed_at is not None else now.reason for now in await read_search_letters(pool)
    }
