"""Records put aside, in the statement's database."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from codebank.runtime.postgres.pool import Connection


async def read_waiting(connection: Connection, max_rows: int) -> list[asyncpg.Record]:
    """Read letters that are not on their topic yet."""
    return await connection.fetch("select * from dead_letter where shipped_at is null order by at limit $1", max_rows)


async def count_waiting(connection: Connection) -> int:
    """Count the letters whose record was never applied."""
    count: int = await connection.fetchval("select count(*) from dead_letter where replayed_at is null")
    return count


async def mark_shipped(connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
    """Remember that letters are on their topic."""
    await connection.executemany(
        'update dead_letter set shipped_at = now() where topic = $1 and partition = $2 and "offset" = $3',
        [(row["topic"], row["partition"], row["offset"]) for row in rows],
    )


async def read_all(connection: Connection) -> list[asyncpg.Record]:
    """Read every letter, the oldest first."""
    return await connection.fetch('select * from dead_letter order by at, topic, partition, "offset"')


async def mark_replayed(connection: Connection, topic: str, partition: int, offset: int) -> None:
    """Remember that a letter's record was applied."""
    await connection.execute(
        'update dead_letter set replayed_at = now() where topic = $1 and partition = $2 and "offset" = $3',
        topic,
        partition,
        offset,
    )
