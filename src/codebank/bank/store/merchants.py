"""Statements of whoever prepares a bank: merchants, and accounts that pay no more."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from codebank.events import AccountStatus
from codebank.runtime.postgres.pool import Connection


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


async def close_account(connection: Connection, account_id: UUID) -> None:
    """Let an account pay no more."""
    await connection.execute("update account set status = $2 where account_id = $1", account_id, AccountStatus.CLOSED)
