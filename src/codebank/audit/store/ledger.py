"""The bank's ledger as the proof asks of it: sums, and what does not fit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import asyncpg

from codebank.audit.store.sides import stream
from codebank.bank.ledger.entry import Chain, Entry
from codebank.bank.store.rows import CAPTURED, VERSION
from codebank.runtime.postgres.pool import Connection

#: What an entry is for; one of the release before is what its direction says.
_KIND: Final = "coalesce(kind, case when debit_kind = 'receivable' then 'charge' else 'refund' end)"
#: States of payments whose money is all in the ledger. One in another state may hold some of an account's limit.
_SETTLED: Final = "('approved', 'declined', 'refunded')"


async def count_of(bank: Connection, table: str) -> int:
    """Count the rows of a table."""
    assert table in ("account", "entry", "payment")
    return int(await bank.fetchval(f"select count(*) from {table}"))


async def broken_balances(bank: Connection) -> list[asyncpg.Record]:
    """Find accounts whose used amount is not what their entries say, or above their limit.

    A payment in a state that has no name here may hold what it has not charged; more than that is never held.
    """
    return await bank.fetch(
        "select a.account_id, a.currency, a.used_minor, a.limit_minor, coalesce(e.moved, 0)::bigint as moved"
        " from account a"
        " left join (select account_id, sum(case when debit_kind = 'receivable' then amount_minor"
        " when credit_kind = 'receivable' then -amount_minor else 0 end) as moved from entry group by 1) e"
        " using (account_id)"
        f" left join (select account_id, sum(amount_minor - {CAPTURED}) as open from payment p"
        f" where status not in {_SETTLED} group by 1) h using (account_id)"
        " where a.used_minor not between coalesce(e.moved, 0) and coalesce(e.moved, 0) + coalesce(h.open, 0)"
        " or a.used_minor > a.limit_minor"
    )


async def trial_balance(bank: Connection) -> list[asyncpg.Record]:
    """Add up debits and credits of each kind of ledger account and currency."""
    return await bank.fetch(
        "select currency, kind, sum(debit)::bigint as debit, sum(credit)::bigint as credit from ("
        " select currency, debit_kind as kind, amount_minor as debit, 0 as credit from entry"
        " union all select currency, credit_kind, 0, amount_minor from entry) sides group by 1, 2 order by 1, 2"
    )


async def payments_moved_wrongly(bank: Connection) -> list[asyncpg.Record]:
    """Find payments whose entries are not what was captured and given back.

    A change moves money one way, once: where something was captured there is an entry of it, as where something was
    given back, and no payment has more entries than changes.
    """
    return await bank.fetch(
        f"with p as (select payment_id, status, currency, {CAPTURED} as captured_minor, refunded_minor,"
        f" {VERSION} as version from payment p),"
        " e as (select payment_id, count(*) filter (where kind = 'charge') as charges,"
        "  count(*) filter (where kind = 'refund') as refunds,"
        "  sum(amount_minor) filter (where kind = 'charge') as charged,"
        "  sum(amount_minor) filter (where kind = 'refund') as returned"
        f" from (select payment_id, amount_minor, {_KIND} as kind from entry) entries group by 1)"
        " select p.*, coalesce(e.charged, 0)::bigint as charged, coalesce(e.returned, 0)::bigint as returned,"
        " coalesce(e.charges, 0) + coalesce(e.refunds, 0) as count from p left join e using (payment_id)"
        " where (coalesce(e.charged, 0), coalesce(e.returned, 0)) <> (p.captured_minor, p.refunded_minor)"
        " or p.refunded_minor > p.captured_minor or e.charges + e.refunds > p.version"
    )


async def orphan_entries(bank: Connection) -> list[asyncpg.Record]:
    """Find entries of payments that do not exist; an entry may belong to something else than a payment."""
    return await bank.fetch(
        "select e.account_id, e.entry_number, e.payment_id from entry e left join payment p"
        " on (p.account_id, p.payment_id) = (e.account_id, e.payment_id)"
        " where e.payment_id is not null and p.payment_id is null limit 100"
    )


async def broken_keys(bank: Connection) -> list[asyncpg.Record]:
    """Find payments that have not taken their key, and keys taken by payments that do not exist."""
    return await bank.fetch(
        "select coalesce(p.payment_id, k.payment_id) as payment_id, p.payment_id is null as has_no_payment"
        " from payment p full join (select merchant_id, key, payment_id from idempotency_key"
        " where payment_id is not null) k"
        " on (p.merchant_id, p.idempotency_key, p.payment_id) = (k.merchant_id, k.key, k.payment_id)"
        " where p.payment_id is null or k.payment_id is null limit 100"
    )


async def broken_chains(bank: Connection) -> AsyncIterator[tuple[UUID, int]]:
    """Find accounts whose hash chain does not verify, with the first entry that does not follow."""
    last = {
        row["account_id"]: (row["entry_number"], row["entry_hash"])
        async for row in stream(bank, "select account_id, entry_number, entry_hash from account")
    }
    of, chain = None, Chain()
    async for row in stream(
        bank, f"select {', '.join(Entry.__struct_fields__)} from entry order by account_id, entry_number"
    ):
        if row["account_id"] != of:
            if of is not None and (broken := _broken(chain, last.pop(of, None))):
                yield of, broken
            of, chain = row["account_id"], Chain()
        chain.add(Entry(**row))
    if of is not None and (broken := _broken(chain, last.pop(of, None))):
        yield of, broken
    for account_id, (number, _) in last.items():
        if number:
            yield account_id, 1  # its row tells of entries, and there is none


def _broken(chain: Chain, last: tuple[int, bytes] | None) -> int | None:
    if chain.broken_at is None and last != (chain.length, chain.hash):
        return chain.length + 1
    return chain.broken_at
