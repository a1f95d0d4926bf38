"""What the audit reads of every side, with roles that may read all and write nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from codebank.bank.ledger.entry import Chain, Entry, Kind
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import LOG_ERRORS, EventLog
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import Connection, PoolMeter, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.peer import PeerError, PeerUnavailable
from codebank.search.index import SearchIndex
from codebank.settings import READER_ROLE, Settings

#: What a side may raise that does not answer, or not as it should.
SIDE_ERRORS: Final = (*LOG_ERRORS, PeerError, PeerUnavailable, asyncpg.PostgresError)
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
            read_only = {"default_transaction_read_only": "on"}
            meter = PoolMeter(telemetry, database) if telemetry else None
            pools.append(await open_pool(dsn, max_size=2, role="audit", server_settings=read_only, meter=meter))
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


async def broken_balances(connection: Connection) -> list[asyncpg.Record]:
    """Find accounts whose used amount is not what their entries say, or above their limit."""
    return await connection.fetch(
        "select a.account_id, a.currency, a.used_minor, a.limit_minor, coalesce(e.moved, 0)::bigint as moved"
        " from account a"
        " left join (select account_id, sum(case when debit_kind = 'receivable' then amount_minor"
        " when credit_kind = 'receivable' then -amount_minor else 0 end) as moved from entry group by 1) e"
        " using (account_id) where a.used_minor <> coalesce(e.moved, 0) or a.used_minor > a.limit_minor"
    )


async def trial_balance(connection: Connection) -> list[asyncpg.Record]:
    """Add up debits and credits of each kind of ledger account and currency."""
    return await connection.fetch(
        "select currency, kind, sum(debit)::bigint as debit, sum(credit)::bigint as credit from ("
        " select currency, debit_kind as kind, amount_minor as debit, 0 as credit from entry"
        " union all select currency, credit_kind, 0, amount_minor from entry) sides group by 1, 2 order by 1, 2"
    )


async def payments_moved_wrongly(connection: Connection) -> list[asyncpg.Record]:
    """Find payments whose entries are not what their state says: once there, and once back where given back."""
    return await connection.fetch(
        "select p.payment_id, p.status, p.currency, p.amount_minor, coalesce(e.charged, 0)::bigint as charged,"
        " coalesce(e.returned, 0)::bigint as returned, coalesce(e.count, 0) as count from payment p left join"
        " (select payment_id, count(*) as count,"
        "  sum(amount_minor) filter (where debit_kind = 'receivable') as charged,"
        "  sum(amount_minor) filter (where credit_kind = 'receivable') as returned from entry group by 1) e"
        " using (payment_id) where (coalesce(e.charged, 0), coalesce(e.returned, 0), coalesce(e.count, 0)) <>"
        " (case when p.status = 'declined' then 0 else p.amount_minor end, p.refunded_minor,"
        "  case p.status when 'declined' then 0 when 'approved' then 1 else 2 end)"
    )


async def orphan_entries(connection: Connection) -> list[asyncpg.Record]:
    """Find entries of payments that do not exist."""
    return await connection.fetch(
        "select e.account_id, e.entry_number, e.payment_id from entry e left join payment p"
        " on (p.account_id, p.payment_id) = (e.account_id, e.payment_id) where p.payment_id is null limit 100"
    )


async def broken_chains(connection: Connection) -> AsyncIterator[tuple[UUID, int]]:
    """Find accounts whose hash chain does not verify, with the first entry that does not follow."""
    last = {
        row["account_id"]: (row["entry_number"], row["entry_hash"])
        async for row in stream(connection, "select account_id, entry_number, entry_hash from account")
    }
    of, chain = None, Chain()
    async for row in stream(
        connection, f"select {', '.join(Entry.__struct_fields__)} from entry order by account_id, entry_number"
    ):
        if row["account_id"] != of:
            if of is not None and (broken := _broken(chain, last.pop(of, None))):
                yield of, broken
            of, chain = row["account_id"], Chain()
        values = {**row, "debit_kind": Kind(row["debit_kind"]), "credit_kind": Kind(row["credit_kind"])}
        chain.add(Entry(**values))
    if of is not None and (broken := _broken(chain, last.pop(of, None))):
        yield of, broken
    for account_id, (number, _) in last.items():
        if number:
            yield account_id, 1  # its row tells of entries, and there is none


def _broken(chain: Chain, last: tuple[int, bytes] | None) -> int | None:
    if chain.broken_at is None and last != (chain.length, chain.hash):
        return chain.length + 1
    return chain.broken_at


async def accounts(sides: Sides) -> set[UUID]:
    """Give every account that the statement or the bank knows."""
    statement = await sides.statement.fetch("select account_id from account union select account_id from line")
    bank = await sides.bank.fetch("select account_id from account")
    return {row["account_id"] for row in (*statement, *bank)}


def lines(statement: Connection, accounts: Sequence[UUID]) -> AsyncIterator[asyncpg.Record]:
    """Give the statement's lines of accounts."""
    return stream(
        statement,
        "select account_id, payment_id, status, amount_minor, refunded_minor, sequence, first_sequence, currency"
        " from line where account_id = any($1)",
        accounts,
    )


async def position(statement: Connection, partition: int) -> int:
    """Say where the statement goes on reading a partition."""
    sql = "select next_offset from position where topic = $1 and partition = $2"
    return await statement.fetchval(sql, PAYMENTS_TOPIC, partition) or 0


async def put_aside(statement: Connection, partition: int) -> frozenset[int]:
    """Give the offsets of a partition's records that nobody could read."""
    sql = 'select "offset" from dead_letter where topic = $1 and partition = $2'
    return frozenset(row["offset"] for row in await statement.fetch(sql, PAYMENTS_TOPIC, partition))


async def sequences(side: Connection, accounts: Sequence[UUID]) -> dict[UUID, int]:
    """Give the last event's number per account: that the bank gave out, or that the statement has."""
    rows = await side.fetch("select account_id, sequence from account where account_id = any($1)", accounts)
    return {row["account_id"]: row["sequence"] for row in rows}


def payments(bank: Connection, accounts: Sequence[UUID]) -> AsyncIterator[asyncpg.Record]:
    """Give the bank's payments of accounts."""
    return stream(
        bank,
        "select payment_id, idempotency_key, status, amount_minor, currency, merchant_id, created_at"
        " from payment where account_id = any($1)",
        accounts,
    )


async def outbox(bank: Connection, accounts: Sequence[UUID]) -> list[asyncpg.Record]:
    """Give the events of accounts that wait to be shipped, in order."""
    sql = "select * from outbox where account_id = any($1) order by account_id, sequence"
    return [row async for row in stream(bank, sql, accounts)]


async def totals(bank: asyncpg.Pool, zone: str) -> list[asyncpg.Record]:
    """Count and add up the bank's payments, per day on a zone's calendar and status."""
    return await bank.fetch(
        "select (created_at at time zone $1)::date as day, status, count(*) as count,"
        " sum(amount_minor)::bigint as amount_minor, sum(refunded_minor)::bigint as refunded_minor"
        " from payment group by 1, 2",
        zone,
    )


async def read_sizes(sides: Sides) -> dict[str, int]:
    """Tell how many bytes each room's database takes on disk."""
    pools = {"bank": sides.bank, "checkout": sides.checkout, "statement": sides.statement}
    sql = "select pg_database_size(current_database())"
    return {database: await pool.fetchval(sql) for database, pool in pools.items()}
