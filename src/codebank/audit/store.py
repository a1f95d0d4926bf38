"""What the audit reads of every side, with a role that may read all and write nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from codebank.bank.entry import Entry, Kind, first_broken
from codebank.runtime.database import Connection, open_pool
from codebank.settings import READER_ROLE, Settings

_FETCH: Final = 2000


@dataclass
class Sides:
    """Pools of all databases, read-only."""

    bank: asyncpg.Pool
    checkout: asyncpg.Pool
    statement: asyncpg.Pool
    log: asyncpg.Pool


@asynccontextmanager
async def open_sides(settings: Settings) -> AsyncIterator[Sides]:
    """Open every database as the reader."""
    pools: list[asyncpg.Pool] = []
    try:
        for database in ("bank", "checkout", "statement", "log"):
            dsn = settings.database_url(database, READER_ROLE)
            read_only = {"default_transaction_read_only": "on"}
            pools.append(await open_pool(dsn, max_size=2, role="audit", server_settings=read_only))
        yield Sides(*pools)
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
        "select a.account_id, a.used_minor, a.limit_minor, coalesce(e.moved, 0)::bigint as moved from account a"
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
        "select p.payment_id, p.status, p.amount_minor, coalesce(e.charged, 0)::bigint as charged,"
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
    chain: list[Entry] = []
    async for row in stream(connection, "select * from entry order by account_id, entry_number"):
        if chain and chain[0].account_id != row["account_id"]:
            if (broken := _verify(chain, last)) is not None:
                yield broken
            last.pop(chain[0].account_id, None)
            chain = []
        values = {**row, "debit_kind": Kind(row["debit_kind"]), "credit_kind": Kind(row["credit_kind"])}
        chain.append(Entry(**values))
    if chain:
        if (broken := _verify(chain, last)) is not None:
            yield broken
        last.pop(chain[0].account_id, None)
    for account_id, (number, _) in last.items():
        if number:
            yield account_id, 1  # its row tells of entries, and there is none


def _verify(chain: list[Entry], last: dict[UUID, tuple[int, bytes]]) -> tuple[UUID, int] | None:
    account_id = chain[0].account_id
    broken = first_broken(chain)
    if broken is None and last.get(account_id) != (chain[-1].entry_number, chain[-1].hash):
        broken = chain[-1].entry_number + 1
    return None if broken is None else (account_id, broken)
