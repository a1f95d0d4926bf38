"""Records put aside, in the statement's database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from codebank.eventlog.log import Record
from codebank.events import key_of
from codebank.runtime.postgres.pool import Connection
from codebank.statement.excuse import NO_EVENT, Excuse


async def write(connection: Connection, put_aside: Sequence[tuple[Record, str, Excuse | None]]) -> None:
    """Put unreadable records aside with the reason, where each came from, what it stands for, and every byte of it."""
    await connection.executemany(
        'insert into dead_letter (topic, partition, "offset", reason, key, value, headers, sequence, after_sequence)'
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
        [
            (
                record.topic,
                record.partition,
                record.offset,
                reason,
                record.key,
                record.value,
                dict(record.headers),
                excuse.sequence if excuse else NO_EVENT,
                excuse.after_sequence if excuse else None,
            )
            for record, reason, excuse in put_aside
        ],
    )


async def is_on_file(connection: Connection, record: Record) -> bool:
    """Tell whether a record was put aside before."""
    found: bool = await connection.fetchval(
        'select exists (select from dead_letter where topic = $1 and partition = $2 and "offset" = $3)',
        record.topic,
        record.partition,
        record.offset,
    )
    return found


async def read_excuses(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, list[Excuse]]:
    """Tell which events of accounts the records stand for that were put aside and never applied."""
    found: dict[UUID, list[Excuse]] = {}
    # The release before does not write the number. Its header says it, on every record that our relay wrote.
    rows = await connection.fetch(
        "select key, sequence, after_sequence from ("
        " select key, after_sequence,"
        "  coalesce(sequence, substring(headers ->> 'ce_sequence' from '^[0-9]{1,18}$')::bigint) as sequence"
        " from dead_letter where key = any($1) and replayed_at is null) dead_letter where sequence is not null",
        [key_of(account_id) for account_id in account_ids],
    )
    for row in rows:
        excuse = Excuse(row["sequence"], row["after_sequence"])
        found.setdefault(UUID(row["key"].decode()), []).append(excuse)
    return found


async def move_place(connection: Connection, account_id: UUID, old: int, new: int) -> None:
    """Let what lies behind an account's last applied event lie there still, now that this is another one."""
    await connection.execute(
        "update dead_letter set after_sequence = $3 where key = $1 and after_sequence = $2 and sequence > $3",
        key_of(account_id),
        old,
        new,
    )


async def read_waiting(connection: Connection, max_rows: int) -> list[asyncpg.Record]:
    """Read dead letters that are not on their topic yet."""
    return await connection.fetch("select * from dead_letter where shipped_at is null order by at limit $1", max_rows)


async def count_waiting(connection: Connection) -> int:
    """Count the dead letters about which nothing was decided yet: neither applied since, nor dismissed."""
    count: int = await connection.fetchval(
        "select count(*) from dead_letter where replayed_at is null and dismissed_at is null"
    )
    return count


async def count_dismissed(connection: Connection) -> int:
    """Count the letters that somebody dismissed, those of the search too."""
    count: int = await connection.fetchval(
        "select (select count(*) from dead_letter where dismissed_at is not null and replayed_at is null)"
        " + (select count(*) from search_letter where dismissed_at is not null and replayed_at is null)"
    )
    return count


async def dismiss(connection: Connection, table: str, topic: str, partition: int, offset: int, because: str) -> None:
    """Remember in a table of letters that nobody will read a record, and why: it excuses its number as before."""
    await connection.execute(
        f"update {table} set dismissed_at = now(), dismissed_because = $4"
        ' where topic = $1 and partition = $2 and "offset" = $3',
        topic,
        partition,
        offset,
        because,
    )


async def mark_shipped(connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
    """Remember that dead letters are on their topic."""
    await connection.executemany(
        'update dead_letter set shipped_at = now() where topic = $1 and partition = $2 and "offset" = $3',
        [(row["topic"], row["partition"], row["offset"]) for row in rows],
    )


async def read_all(connection: Connection) -> list[asyncpg.Record]:
    """Read every dead letter, the oldest first."""
    return await connection.fetch('select * from dead_letter order by at, topic, partition, "offset"')


async def mark_replayed(connection: Connection, topic: str, partition: int, offset: int) -> None:
    """Remember that a dead letter's record was applied: its number needs no excuse any more."""
    await connection.execute(
        'update dead_letter set replayed_at = now() where topic = $1 and partition = $2 and "offset" = $3',
        topic,
        partition,
        offset,
    )
