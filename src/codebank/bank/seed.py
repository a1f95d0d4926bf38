"""The demo's bank: its merchant, its cardholder's account and the published test cards. Safe to repeat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import asyncpg

from codebank.bank.drawing import Plastic, issuing
from codebank.bank.executor import carry_out_within
from codebank.bank.operation import OpenAccount, Operation
from codebank.bank.store.merchants import add_merchant, close_account
from codebank.bank.store.reading import has_fingerprint
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
from codebank.errors import CodebankError
from codebank.runtime.postgres.pool import Connection
from codebank.wire import utc_now

_ACCOUNTS: Final = (
    OpenAccount(account_id=DEMO_ACCOUNT, holder_name=DEMO_NAME, currency="BRL", limit_minor=5_000_000),
    OpenAccount(account_id=CLOSED_ACCOUNT, holder_name="Conta Encerrada", currency="BRL", limit_minor=100_000),
    OpenAccount(account_id=EMPTY_ACCOUNT, holder_name="Conta Sem Limite", currency="BRL", limit_minor=0),
    OpenAccount(account_id=DOLLAR_ACCOUNT, holder_name="Conta em Dólar", currency="USD", limit_minor=100_000),
)


async def seed_bank(connection: asyncpg.Connection, vault: Vault, merchant_key: str) -> None:
    """Put the demo's merchant, accounts and test cards into the bank."""
    async with connection.transaction():
        digest = hashlib.sha256(merchant_key.encode()).digest()
        await add_merchant(connection, DEMO_MERCHANT, DEMO_MERCHANT_NAME, DEMO_MERCHANT_CATEGORY, digest, utc_now())
        await carry_out(connection, _ACCOUNTS)
        missing = [card for card in TEST_CARDS if await _is_missing(connection, vault, card)]
        await carry_out(connection, [_issuing(vault, card) for card in missing])
        await close_account(connection, CLOSED_ACCOUNT)


async def carry_out(connection: Connection, operations: Sequence[Operation]) -> None:
    """Carry out operations that must not be refused, within the caller's transaction."""
    for answer in await carry_out_within(connection, operations) if operations else ():
        if isinstance(answer, CodebankError):
            raise answer


async def _is_missing(connection: Connection, vault: Vault, card: TestCard) -> bool:
    return card.account_id is not None and not await has_fingerprint(connection, vault.fingerprint(card.number))


def _issuing(vault: Vault, card: TestCard) -> Operation:
    assert card.account_id is not None
    plastic = Plastic(card.number, (card.expiry_year, card.filed_expiry_month))
    return issuing(vault, plastic, card.account_id, status=card.status)
