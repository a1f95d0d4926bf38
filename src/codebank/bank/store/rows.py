"""Rows of the bank's tables as what the rules know."""

from __future__ import annotations

from typing import Final

import asyncpg

from codebank.bank.account import Account, Card
from codebank.events import AccountStatus, CardStatus, DeclineCode, PaymentState, PaymentStatus

ACCOUNT_COLUMNS: Final = (
    "a.account_id, a.holder_name, a.status, a.currency, a.limit_minor, a.used_minor, a.sequence,"
    " a.entry_number, a.entry_hash"
)
CARD_COLUMNS: Final = (
    "c.card_id, c.masked, c.brand, c.expiry_month, c.expiry_year, c.status as card_status,"
    " c.wrong_attempts, c.wrong_since"
)
PAYMENT_COLUMNS: Final = (
    "p.payment_id, p.status, p.decline_code, p.amount_minor, p.currency, p.refunded_minor, p.parcelas,"
    " p.merchant_id, p.merchant_name, p.merchant_category, p.description, p.card_masked, p.card_brand, p.card_id,"
    " p.created_at, p.updated_at"
)


def account_of(row: asyncpg.Record) -> Account:
    """Read an account from a row."""
    return Account(
        account_id=row["account_id"],
        holder_name=row["holder_name"],
        status=AccountStatus(row["status"]),
        currency=row["currency"],
        limit_minor=row["limit_minor"],
        used_minor=row["used_minor"],
        sequence=row["sequence"],
        entry_number=row["entry_number"],
        entry_hash=row["entry_hash"],
    )


def card_of(row: asyncpg.Record) -> Card:
    """Read a card from a row."""
    return Card(
        card_id=row["card_id"],
        account_id=row["account_id"],
        masked=row["masked"],
        brand=row["brand"],
        expiry_month=row["expiry_month"],
        expiry_year=row["expiry_year"],
        status=CardStatus(row["card_status"]),
        wrong_attempts=row["wrong_attempts"],
        wrong_since=row["wrong_since"],
    )


def payment_of(row: asyncpg.Record) -> PaymentState:
    """Read a payment from a row."""
    code = row["decline_code"]
    return PaymentState(
        payment_id=row["payment_id"],
        status=PaymentStatus(row["status"]),
        decline_code=DeclineCode(code) if code else None,
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        refunded_minor=row["refunded_minor"],
        parcelas=row["parcelas"],
        merchant_id=row["merchant_id"],
        merchant_name=row["merchant_name"],
        merchant_category=row["merchant_category"],
        description=row["description"],
        card_masked=row["card_masked"],
        card_brand=row["card_brand"],
        card_id=row["card_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
