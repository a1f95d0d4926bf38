"""Payments, events and orders as the proof compares them, account by account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from uuid import UUID

import asyncpg

from codebank.audit.store.sides import Sides, stream
from codebank.bank.store.rows import CAPTURED, VERSION
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import Connection


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


async def dead_letters(statement: Connection, partition: int) -> frozenset[int]:
    """Give the offsets of a partition's records that the statement put aside."""
    sql = 'select "offset" from dead_letter where topic = $1 and partition = $2'
    return frozenset(row["offset"] for row in await statement.fetch(sql, PAYMENTS_TOPIC, partition))


async def waiting_letters(statement: Connection, accounts: Collection[UUID]) -> list[asyncpg.Record]:
    """Give what tells of the events of accounts that the statement put aside and has not applied since.

    An event is of the account that its own headers name, wherever it lies.
    """
    return await statement.fetch(
        "select headers ->> 'ce_subject' as account_id, headers ->> 'ce_sequence' as sequence, partition, \"offset\""
        " from dead_letter where topic = $1 and replayed_at is null and headers ->> 'ce_subject' = any($2)",
        PAYMENTS_TOPIC,
        [str(account_id) for account_id in accounts],
    )


async def sequences(side: Connection, accounts: Sequence[UUID]) -> dict[UUID, int]:
    """Give the last event's number per account: that the bank gave out, or that the statement has."""
    rows = await side.fetch("select account_id, sequence from account where account_id = any($1)", accounts)
    return {row["account_id"]: row["sequence"] for row in rows}


def payments(bank: Connection, accounts: Sequence[UUID]) -> AsyncIterator[asyncpg.Record]:
    """Give the bank's payments of accounts, each with the digest of the request that took its key."""
    return stream(
        bank,
        "select p.account_id, p.payment_id, p.idempotency_key, p.status, p.amount_minor, p.refunded_minor, p.currency,"
        f" p.merchant_id, p.created_at, {CAPTURED} as captured_minor, {VERSION} as version,"
        " coalesce(k.hash_version, 1) || ':' || encode(k.request_hash, 'hex') as digest"
        " from payment p left join idempotency_key k on (k.merchant_id, k.key) = (p.merchant_id, p.idempotency_key)"
        " where p.account_id = any($1)",
        accounts,
    )


async def outbox(bank: Connection, accounts: Sequence[UUID]) -> list[asyncpg.Record]:
    """Give the events of accounts that wait to be shipped, in order."""
    sql = (
        "select account_id, sequence, event_id, type, occurred_at, value, traceparent from outbox"
        " where account_id = any($1) order by account_id, sequence"
    )
    return [row async for row in stream(bank, sql, accounts)]


async def totals(bank: asyncpg.Pool, zone: str) -> list[asyncpg.Record]:
    """Count and add up the bank's payments, per day on a zone's calendar and status."""
    return await bank.fetch(
        "select (created_at at time zone $1)::date as day, status, count(*) as count,"
        " sum(amount_minor)::bigint as amount_minor, sum(refunded_minor)::bigint as refunded_minor"
        " from payment group by 1, 2",
        zone,
    )


def orders(checkout: Connection) -> AsyncIterator[asyncpg.Record]:
    """Give every order of the shop."""
    return stream(checkout, "select order_id, status, total_minor from orders")


async def known_orders(checkout: asyncpg.Pool, order_ids: Sequence[UUID]) -> set[UUID]:
    """Tell which of these orders the shop has by now."""
    rows = await checkout.fetch("select order_id from orders where order_id = any($1)", order_ids)
    return {row["order_id"] for row in rows}
