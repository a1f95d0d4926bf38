"""The demo's bank: its merchant, its cardholder's account and the published test cards. Safe to repeat."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Final

import asyncpg

from codebank.bank.account import WRONG_ATTEMPTS_MAX
from codebank.bank.cards import open_account, put_card
from codebank.bank.store import cards as store
from codebank.bank.store.reading import lock_accounts
from codebank.bank.test_cards import (
    CLOSED_ACCOUNT,
    DEMO_ACCOUNT,
    DEMO_MERCHANT,
    DEMO_MERCHANT_CATEGORY,
    DEMO_MERCHANT_NAME,
    DEMO_NAME,
    DOLLAR_ACCOUNT,
    EMPTY_ACCOUNT,
    TEST_CARDS,
    TestCard,
)
from codebank.bank.vault import Vault
from codebank.money import Money
from codebank.runtime.postgres.pool import Connection
from codebank.wire import utc_now

#: Far enough ahead that the window of wrong attempts never passes.
_WORN_OUT_SINCE: Final = datetime(2900, 1, 1, tzinfo=UTC)
_ACCOUNTS: Final = (
    (DEMO_ACCOUNT, DEMO_NAME, Money(5_000_000, "BRL")),
    (CLOSED_ACCOUNT, "Conta Encerrada", Money(100_000, "BRL")),
    (EMPTY_ACCOUNT, "Conta Sem Limite", Money(0, "BRL")),
    (DOLLAR_ACCOUNT, "Conta em Dólar", Money(100_000, "USD")),
)


async def seed_bank(connection: asyncpg.Connection, vault: Vault, merchant_key: str) -> None:
    """Put the demo's merchant, accounts and test cards into the bank."""
    async with connection.transaction():
        now = utc_now()
        digest = hashlib.sha256(merchant_key.encode()).digest()
        await store.add_merchant(connection, DEMO_MERCHANT, DEMO_MERCHANT_NAME, DEMO_MERCHANT_CATEGORY, digest, now)
        for account_id, holder_name, limit in _ACCOUNTS:
            await open_account(connection, account_id, holder_name, limit, now)
        await store.close_account(connection, CLOSED_ACCOUNT)
        for card in TEST_CARDS:
            await _put_test_card(connection, vault, card, now)


async def _put_test_card(connection: Connection, vault: Vault, card: TestCard, now: datetime) -> None:
    if card.account_id is None or await store.has_fingerprint(connection, vault.fingerprint(card.number)):
        return
    # Read anew for each card: every card issued is one more event of its account.
    account = (await lock_accounts(connection, [card.account_id]))[card.account_id]
    await put_card(
        connection,
        vault,
        account,
        card.number,
        (card.expiry_year, card.filed_expiry_month),
        now,
        status=card.status,
        wrong_attempts=WRONG_ATTEMPTS_MAX if card.worn_out else 0,
        wrong_since=_WORN_OUT_SINCE if card.worn_out else None,
    )
