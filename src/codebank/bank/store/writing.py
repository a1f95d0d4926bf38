"""What is written once money was decided: accounts, payments, entries and outbox rows, in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from codebank.bank.account import Account, Card, Outcome
from codebank.bank.ledger.entry import Entry
from codebank.events import Event
from codebank.runtime.postgres.pool import Connection
from codebank.wire import event_value

# One statement for a whole batch: one round trip, one plan.
_WRITE: Final = """
with written_account as (
    update account a set used_minor = n.used_minor, sequence = n.sequence,
           entry_number = n.entry_number, entry_hash = n.entry_hash
    from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[])
         as n(account_id, used_minor, sequence, entry_number, entry_hash)
    where a.account_id = n.account_id
), written_payment as (
    insert into payment (account_id, payment_id, merchant_id, idempotency_key, status, decline_code, amount_minor,
                         currency, parcelas, description, merchant_name, merchant_category, card_id, card_masked,
                         card_brand, created_at, updated_at)
    select n.*, $22, $22
    from unnest($6::uuid[], $7::uuid[], $8::uuid[], $9::text[], $10::text[], $11::text[], $12::bigint[],
                $13::text[], $14::smallint[], $15::text[], $16::text[], $17::text[], $18::uuid[], $19::text[],
                $20::text[]) as n
), written_entry as (
    insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,
                       currency, payment_id, created_at, hash)
    select n.account_id, n.entry_number, 'receivable', n.account_id, 'payable', n.merchant_id, n.amount_minor,
           n.currency, n.payment_id, $22, n.hash
    from unnest($23::uuid[], $24::bigint[], $25::uuid[], $26::bigint[], $27::text[], $28::uuid[], $29::bytea[])
         as n(account_id, entry_number, merchant_id, amount_minor, currency, payment_id, hash)
), written_event as (
    insert into outbox (account_id, sequence, event_id, type, occurred_at, value)
    select n.account_id, n.sequence, n.event_id, n.type, $22, n.value
    from unnest($6::uuid[], $21::bigint[], $30::uuid[], $31::text[], $32::bytea[])
         as n(account_id, sequence, event_id, type, value)
)
select pg_notify('outbox', '')
"""


async def write_outcomes(
    connection: Connection, accounts: Collection[Account], outcomes: Sequence[tuple[str, Outcome]], now: datetime
) -> None:
    """Write a batch of decided payments, each with its key: accounts, payments, entries and outbox rows."""
    payments = [
        (
            outcome.account.account_id, outcome.payment.payment_id, outcome.payment.merchant_id, key,
            outcome.payment.status, outcome.payment.decline_code, outcome.payment.amount_minor,
            outcome.payment.currency, outcome.payment.parcelas, outcome.payment.description,
            outcome.payment.merchant_name, outcome.payment.merchant_category, outcome.payment.card_id,
            outcome.payment.card_masked, outcome.payment.card_brand, outcome.event.sequence,
        )
        for key, outcome in outcomes
    ]  # fmt: skip
    entries = [
        (entry.account_id, entry.entry_number, entry.credit_id, entry.amount_minor, entry.currency,
         entry.payment_id, entry.hash)
        for entry in (outcome.entry for _, outcome in outcomes)
        if entry is not None
    ]  # fmt: skip
    await connection.execute(
        _WRITE,
        *_columns([(a.account_id, a.used_minor, a.sequence, a.entry_number, a.entry_hash) for a in accounts], width=5),
        *_columns(payments, width=16),
        now,
        *_columns(entries, width=7),
        *_event_columns([outcome.event for _, outcome in outcomes]),
    )
    changed = [outcome.card for _, outcome in outcomes if outcome.card is not None]
    if changed:
        await _write_attempts(connection, changed)


def _columns(rows: Sequence[tuple[Any, ...]], *, width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def _event_columns(events: Sequence[Event]) -> tuple[list[UUID], list[str], list[bytes]]:
    return [event.event_id for event in events], [event.type for event in events], [*map(event_value, events)]


async def _write_attempts(connection: Connection, cards: Sequence[Card]) -> None:
    # Of a card that changed twice in the batch, the last state counts.
    last = {card.card_id: card for card in cards}
    rows = [(card.account_id, card.card_id, card.wrong_attempts, card.wrong_since) for card in last.values()]
    await connection.execute(
        "update card c set wrong_attempts = n.attempts, wrong_since = n.since"
        " from unnest($1::uuid[], $2::uuid[], $3::int[], $4::timestamptz[]) as n(account_id, card_id, attempts, since)"
        " where (c.account_id, c.card_id) = (n.account_id, n.card_id)",
        *_columns(rows, width=4),
    )


async def write_refund(connection: Connection, outcome: Outcome) -> None:
    """Write a payment that was given back, its reverse entry and its event."""
    assert outcome.entry is not None
    account, payment = outcome.account, outcome.payment
    await _write_account(connection, account)
    await connection.execute(
        "update payment set status = $3, refunded_minor = $4, updated_at = $5"
        " where (account_id, payment_id) = ($1, $2)",
        account.account_id,
        payment.payment_id,
        payment.status,
        payment.refunded_minor,
        payment.updated_at,
    )
    entry = outcome.entry
    await connection.execute(
        "insert into entry values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        *(getattr(entry, name) for name in Entry.__struct_fields__),
    )
    await add_event(connection, outcome.event)


async def _write_account(connection: Connection, account: Account) -> None:
    await connection.execute(
        "update account set used_minor = $2, sequence = $3, entry_number = $4, entry_hash = $5 where account_id = $1",
        account.account_id,
        account.used_minor,
        account.sequence,
        account.entry_number,
        account.entry_hash,
    )


async def advance_sequence(connection: Connection, account_id: UUID) -> None:
    """Count one more event of an account whose lock is held."""
    await connection.execute("update account set sequence = sequence + 1 where account_id = $1", account_id)


async def write_traces(connection: Connection, traced: Mapping[UUID, str]) -> None:
    """Note to which traces events in the outbox belong: a statement of its own, because few are traced."""
    await connection.execute(
        "update outbox o set traceparent = n.traceparent"
        " from unnest($1::uuid[], $2::text[]) as n(event_id, traceparent) where o.event_id = n.event_id",
        list(traced),
        list(traced.values()),
    )


async def add_event(connection: Connection, event: Event) -> None:
    """Put an event into the outbox, in the caller's transaction."""
    await connection.execute(
        "insert into outbox (account_id, sequence, event_id, type, occurred_at, value) values ($1, $2, $3, $4, $5, $6)",
        event.account_id,
        event.sequence,
        event.event_id,
        event.type,
        event.occurred_at,
        event_value(event),
    )
    await connection.execute("select pg_notify('outbox', '')")
