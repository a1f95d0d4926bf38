"""What the control room shows: counts of each stage, the last payments, and one payment on every side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from codebank.bank.store.rows import VERSION
from codebank.events import PAYMENTS_TOPIC

_RECENT: Final = 12
#: An account has no more events that wait, but for a log that is away for long: then its first are shown.
_OUTBOX_MAX: Final = 2000


async def count_orders(checkout: asyncpg.Pool) -> dict[str, int]:
    """Count the shop's orders by their status."""
    rows = await checkout.fetch("select status, count(*) as count from orders group by 1")
    return {row["status"]: row["count"] for row in rows}


async def count_payments(bank: asyncpg.Pool) -> dict[str, int]:
    """Count the bank's payments by their status."""
    rows = await bank.fetch("select status, count(*) as count from payment group by 1")
    return {row["status"]: row["count"] for row in rows}


async def read_backlog(bank: asyncpg.Pool) -> asyncpg.Record:
    """Count the events that wait to be shipped, since when the oldest does, and all that were ever numbered."""
    row = await bank.fetchrow(
        "select count(*) as count, greatest(0, coalesce(extract(epoch from now() - min(created_at)) * 1000, 0))::bigint"
        " as age_milliseconds, (select coalesce(sum(sequence), 0)::bigint from account) as numbered from outbox"
    )
    assert row is not None
    return row


async def read_waiting_since(bank: asyncpg.Pool) -> datetime | None:
    """Tell since when the oldest event waits to be shipped; None where none does."""
    since: datetime | None = await bank.fetchval("select min(created_at) from outbox")
    return since


async def count_statement(statement: asyncpg.Pool) -> asyncpg.Record:
    """Count the statement's lines, the records it put aside, and the events it has applied."""
    row = await statement.fetchrow(
        "select (select count(*) from line) as lines, (select count(*) from dead_letter) as dead_letters,"
        " (select coalesce(sum(sequence), 0)::bigint from account) as applied"
    )
    assert row is not None
    return row


async def read_positions(statement: asyncpg.Pool) -> dict[int, int]:
    """Tell how far the statement has read each partition."""
    rows = await statement.fetch("select partition, next_offset from position where topic = $1", PAYMENTS_TOPIC)
    return {row["partition"]: row["next_offset"] for row in rows}


async def recent_payments(bank: asyncpg.Pool) -> list[asyncpg.Record]:
    """Read the last payments."""
    return await bank.fetch(
        "select payment_id, merchant_name, card_masked, amount_minor, currency, status, decline_code, created_at"
        f" from payment order by payment_id desc limit {_RECENT}"
    )


async def line_delays(statement: asyncpg.Pool, payment_ids: Sequence[UUID]) -> dict[UUID, int]:
    """Tell how many milliseconds after the bank's decision these payments came to the statement, those that did."""
    rows = await statement.fetch(
        "select payment_id, greatest(0, extract(epoch from projected_at - occurred_at) * 1000)::bigint as late"
        " from line where payment_id = any($1)",
        payment_ids,
    )
    return {row["payment_id"]: row["late"] for row in rows}


async def find_order(checkout: asyncpg.Pool, any_id: UUID) -> Mapping[str, Any] | None:
    """Find an order by its id or its payment's."""
    row = await checkout.fetchrow(
        "select order_id, payment_id, status, decline_code, total_minor as amount_minor, currency, card_masked,"
        " created_at, settled_at from orders where order_id = $1 or payment_id = $1",
        any_id,
    )
    return dict(row) if row else None


async def find_payment(bank: asyncpg.Pool, payment_id: UUID, order_id: UUID) -> Mapping[str, Any] | None:
    """Find a payment by its id, or by its order's.

    An order whose answer was lost does not know its payment yet; the bank knows it by the order's key.
    """
    row = await bank.fetchrow(
        "select account_id, payment_id, idempotency_key, status, decline_code, amount_minor, currency, merchant_name,"
        f" card_masked, created_at, updated_at, {VERSION} as version from payment p where payment_id = $1"
        " or payment_id = (select k.payment_id from merchant m join idempotency_key k"
        " on k.merchant_id = m.merchant_id and k.key = $2 where k.payment_id is not null limit 1) limit 1",
        payment_id,
        str(order_id),
    )
    return dict(row) if row else None


async def moments_moved(bank: asyncpg.Pool, account_id: UUID, payment_id: UUID) -> list[datetime]:
    """Tell when a payment moved money, in order."""
    rows = await bank.fetch(
        "select distinct created_at from entry where (account_id, payment_id) = ($1, $2) order by created_at",
        account_id,
        payment_id,
    )
    return [row["created_at"] for row in rows]


async def find_line(statement: asyncpg.Pool, payment_id: UUID) -> Mapping[str, Any] | None:
    """Find a payment's line."""
    row = await statement.fetchrow(
        "select account_id, payment_id, status, decline_code, amount_minor, currency, merchant_name, card_masked,"
        " sequence, first_sequence, projected_at, occurred_at as created_at from line where payment_id = $1",
        payment_id,
    )
    return dict(row) if row else None


async def waiting_events(bank: asyncpg.Pool, account_id: UUID) -> list[asyncpg.Record]:
    """Read an account's events that wait to be shipped."""
    return await bank.fetch(
        "select sequence, type, occurred_at, event_id, value from outbox where account_id = $1"
        f" order by sequence limit {_OUTBOX_MAX}",
        account_id,
    )


async def reasons_put_aside(
    statement: asyncpg.Pool, places: Sequence[tuple[int, int]]
) -> Mapping[tuple[int, int], str]:
    """Tell why records at these places (partition, offset) were put aside, those that were and still are."""
    rows = await statement.fetch(
        'select d.partition, d."offset", d.reason from dead_letter d'
        ' join unnest($2::int[], $3::bigint[]) as n(partition, "offset") using (partition, "offset")'
        " where d.topic = $1 and d.replayed_at is null",
        PAYMENTS_TOPIC,
        [partition for partition, _ in places],
        [offset for _, offset in places],
    )
    return {(row["partition"], row["offset"]): row["reason"] for row in rows}
