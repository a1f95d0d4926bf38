"""The sides: every room's database, the log and the index, opened with roles that may read all and write nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from codebank.eventlog.choice import open_log
from codebank.eventlog.log import LOG_ERRORS, EventLog
from codebank.runtime.postgres.pool import Connection, PoolMeter, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.peer import PeerError, PeerUnavailable
from codebank.search.index import SearchIndex
from codebank.settings import READER_ROLE, Settings

#: What says that a side is away, or that nobody may come in now. A fault of ours, such as a column that is not there,
#: is not among them: it would be taken for a side that does not answer.
SIDE_ERRORS: Final = (
    *LOG_ERRORS,
    PeerError,
    PeerUnavailable,
    # A database that is closed to connections, not made yet, or refuses the reader's role.
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
)
_FETCH: Final = 2000


@dataclass
class Sides:
    """Every side, read-only."""

    bank: asyncpg.Pool
    checkout: asyncpg.Pool
    statement: asyncpg.Pool
    log: EventLog
    #: None where no search index is part of the system.
    search: SearchIndex | None
    settings: Settings


@asynccontextmanager
async def open_sides(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[Sides]:
    """Open every database as the reader, and the log and the index beside them."""
    pools: list[asyncpg.Pool] = []
    try:
        for database in ("bank", "checkout", "statement"):
            dsn = settings.database_url(database, READER_ROLE)
            meter = PoolMeter(telemetry, database) if telemetry else None
            pools.append(await open_pool(dsn, max_size=2, role="audit", read_only=True, meter=meter))
        async with open_log(settings, "audit", database_role=READER_ROLE, telemetry=telemetry) as log:
            bank, checkout, statement = pools
            yield Sides(bank, checkout, statement, log=log, search=SearchIndex.of(settings), settings=settings)
    finally:
        for pool in pools:
            await pool.close()


@asynccontextmanager
async def snapshot(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """Read a database as it is at one moment, however long the reading takes."""
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        yield connection


async def stream(connection: Connection, sql: str, *values: Any) -> AsyncIterator[asyncpg.Record]:
    """Read rows without holding them all."""
    async for row in connection.cursor(sql, *values, prefetch=_FETCH, timeout=300):
        yield row


async def database_sizes(sides: Sides) -> dict[str, int]:
    """Tell how many bytes each room's database takes on disk."""
    pools = {"bank": sides.bank, "checkout": sides.checkout, "statement": sides.statement}
    sql = "select pg_database_size(current_database())"
    return {database: await pool.fetchval(sql) for database, pool in pools.items()}
