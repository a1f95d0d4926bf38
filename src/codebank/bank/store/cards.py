"""Statements of the operator's hand: merchants, accounts, cards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from codebank.bank.account import Account, Card
from codebank.bank.store.rows import ACCOUNT_COLUMNS, CARD_COLUMNS, account_of, card_of
from codebank.events import AccountStatus, CardStatus
from codebank.runtime.postgres.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCard:
    """A card about to be kept."""

    card: Card
    token: str
    fingerprint: bytes
    number_sealed: bytes
    #: The operator's key; None where the seed issues it.
    issue_key: str | None


async def add_merchant(
    connection: Connection, merchant_id: UUID, name: str, category_code: str, api_key_hash: bytes, now: datetime
) -> None:
    """Keep a merchant and its account of unmatched attempts. Safe to repeat; the API key may change."""
    await connection.execute(
        "insert into merchant (merchant_id, name, category_code, api_key_hash) values ($1, $2, $3, $4)"
        " on conflict (merchant_id) do update set api_key_hash = excluded.api_key_hash",
        merchant_id,
        name,
        category_code,
        api_key_hash,
    )
    await connection.execute(
        "insert into account (account_id, kind, holder_name, currency, limit_minor, created_at)"
        " values ($1, 'unmatched', $2, 'BRL', 0, $3) on conflict do nothing",
        merchant_id,
        name,
        now,
    )


async def add_account(
    connection: Connection, account_id: UUID, holder_name: str, currency: str, limit_minor: int, now: datetime
) -> Account | None:
    """Keep a new account; None where it is there already."""
    row = await connection.fetchrow(
        "insert into account as a (account_id, holder_name, currency, limit_minor, created_at)"
        f" values ($1, $2, $3, $4, $5) on conflict do nothing returning {ACCOUNT_COLUMNS}",
        account_id,
        holder_name,
        currency,
        limit_minor,
        now,
    )
    return account_of(row) if row else None


async def close_account(connection: Connection, account_id: UUID) -> None:
    """Let an account pay no more."""
    await connection.execute("update account set status = $2 where account_id = $1", account_id, AccountStatus.CLOSED)


async def add_card(connection: Connection, new: NewCard, now: datetime) -> None:
    """Keep a new card."""
    card = new.card
    await connection.execute(
        "insert into card (account_id, card_id, token, fingerprint, number_sealed, masked, brand, expiry_month,"
        " expiry_year, status, wrong_attempts, wrong_since, issue_key, created_at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        card.account_id,
        card.card_id,
        new.token,
        new.fingerprint,
        new.number_sealed,
        card.masked,
        card.brand,
        card.expiry_month,
        card.expiry_year,
        card.status,
        card.wrong_attempts,
        card.wrong_since,
        new.issue_key,
        now,
    )


async def find_card(connection: Connection, card_id: UUID, *, lock: bool) -> tuple[Account, Card, str] | None:
    """Read a card with its account and token, under both locks where it is to be changed."""
    row = await connection.fetchrow(
        f"select {ACCOUNT_COLUMNS}, {CARD_COLUMNS}, c.token from account a join card c using (account_id)"
        f" where c.card_id = $1{' for update of a, c' if lock else ''}",
        card_id,
    )
    return (account_of(row), card_of(row), row["token"]) if row else None


async def find_issued(connection: Connection, issue_key: str) -> UUID | None:
    """Find the card that an operator's key issued."""
    card_id: UUID | None = await connection.fetchval("select card_id from card where issue_key = $1", issue_key)
    return card_id


async def has_fingerprint(connection: Connection, fingerprint: bytes) -> bool:
    """Tell whether a number is taken."""
    return bool(await connection.fetchval("select exists (select from card where fingerprint = $1)", fingerprint))


async def set_card_status(connection: Connection, card: Card, status: CardStatus) -> None:
    """Write a card's new status."""
    await connection.execute(
        "update card set status = $3 where (account_id, card_id) = ($1, $2)", card.account_id, card.card_id, status
    )


async def list_cards(connection: Connection) -> list[tuple[Account, Card, str]]:
    """Read every card with its account and token, newest first."""
    rows = await connection.fetch(
        f"select {ACCOUNT_COLUMNS}, {CARD_COLUMNS}, c.token from account a join card c using (account_id)"
        " order by c.created_at desc, c.card_id limit 500"
    )
    return [(account_of(row), card_of(row), row["token"]) for row in rows]
