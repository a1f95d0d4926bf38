"""Makes the statement anew from the log, partition by partition, while everything runs.

Each partition is one transaction: until it is committed, readers see what was there; then, all of it anew. A projector
that reads the partition meanwhile waits for its position's row, finds another position than the one it came from, and
goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import EventLog, Record, partition_of_account
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import Connection
from codebank.statement.applying import apply_records
from codebank.statement.store import projecting as store

_SCAN: Final = 1000


async def rebuild(pool: asyncpg.Pool, log: EventLog, tell: Callable[[int, int, int], None]) -> int:
    """Rebuild every partition; `tell` is given the partition, how many there are, and its records. Gives the sum."""
    ends = await log.ends(PAYMENTS_TOPIC, settled=True)
    count = 0
    for partition in sorted(ends):
        async with pool.acquire() as connection, connection.transaction():
            records = await _rebuild(connection, log, partition, ends[partition])
        tell(partition, len(ends), records)
        count += records
    return count


async def _rebuild(connection: Connection, log: EventLog, partition: int, end: int) -> int:
    await store.forget(connection, PAYMENTS_TOPIC, partition, await _accounts(connection, partition))
    count, position = 0, 0
    while position < end:
        records: list[Record] = await log.scan(PAYMENTS_TOPIC, partition, position, _SCAN)
        if not records:
            break
        await apply_records(connection, records)
        count += len(records)
        position = records[-1].offset + 1
    await store.put_position(connection, PAYMENTS_TOPIC, partition, position)
    return count


async def _accounts(connection: Connection, partition: int) -> list[UUID]:
    return [one for one in await store.read_account_ids(connection) if partition_of_account(one) == partition]
