"""What Kafka Connect put aside for the search index, in the statement's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from codebank.runtime.postgres.pool import Connection


class Row(NamedTuple):
    """A record that was put aside, as it is kept."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    at: datetime


async def read_positions(connection: Connection) -> dict[int, int]:
    """Tell how far the letters' topic was read, and keep everybody else from reading it until the transaction ends."""
    await connection.execute("lock table search_letter_position in share row exclusive mode")
    rows = await connection.fetch("select partition, next_offset from search_letter_position")
    return {row["partition"]: row["next_offset"] for row in rows}


async def put_position(connection: Connection, partition: int, next_offset: int) -> None:
    """Say how far a partition of the letters' topic was read."""
    await connection.execute(
        "insert into search_letter_position (partition, next_offset) values ($1, $2)"
        " on conflict (partition) do update set next_offset = excluded.next_offset",
        partition,
        next_offset,
    )


async def write(connection: Connection, rows: Sequence[Row]) -> None:
    """Keep letters as they are met on their topic, each once: one put aside again waits again, unless dismissed."""
    await connection.executemany(
        'insert into search_letter (topic, partition, "offset", reason, key, value, headers, at)'
        ' values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (topic, partition, "offset") do update'
        " set reason = excluded.reason, at = excluded.at, replayed_at = null, times = search_letter.times + 1",
        rows,
    )


async def count_waiting(connection: Connection) -> int:
    """Count the letters about which nothing was decided yet."""
    count: int = await connection.fetchval(
        "select count(*) from search_letter where replayed_at is null and dismissed_at is null"
    )
    return count


async def read_all(connection: Connection) -> list[asyncpg.Record]:
    """Read every letter, the oldest first."""
    return await connection.fetch('select * from search_letter order by at, topic, partition, "offset"')


async def mark_replayed(connection: Connection, topic: str, partition: int, offset: int, times: int) -> None:
    """Remember that a record was indexed at last, unless it was put aside more often than that meanwhile."""
    await connection.execute(
        "update search_letter set replayed_at = now()"
        ' where topic = $1 and partition = $2 and "offset" = $3 and times = $4',
        topic,
        partition,
        offset,
        times,
    )
