"""Rows of the bank's tables as what the rules know. What the release before did not write is derived here."""

from __future__ import annotations

from typing import Final

import asyncpg

from codebank.bank.operation import Authorize
from codebank.bank.state import Account, Card, Merchant, TakenKey
from codebank.events import PaymentState

ACCOUNT_COLUMNS: Final = (
    "a.account_id, a.kind, a.holder_name, a.status, a.currency, a.limit_minor, a.used_minor, a.sequence,"
    " a.entry_number, a.entry_hash, a.version"
)
CARD_COLUMNS: Final = (
    "c.card_id, c.token, c.masked, c.brand, c.expiry_month, c.expiry_year, c.status as card_status,"
    " c.wrong_attempts, c.wrong_since"
)
#: How often payment `p` changed, and what was charged of it, where the release before wrote its row: it charged at
#: once, and gave back whole or not at all.
VERSION: Final = "coalesce(p.version, case when p.refunded_minor > 0 then 2 else 1 end)"
CAPTURED: Final = "coalesce(p.captured_minor, case when p.status = 'declined' then 0 else p.amount_minor end)"
PAYMENT_COLUMNS: Final = (
    "p.account_id, p.payment_id, p.idempotency_key, p.status, p.decline_code, p.amount_minor, p.currency,"
    " p.refunded_minor, p.parcelas, p.merchant_id, p.merchant_name, p.merchant_category, p.description,"
    " p.card_masked, p.card_brand, p.card_id, p.created_at, p.updated_at,"
    f" {CAPTURED} as captured_minor, {VERSION} as version"
)
#: Named apart from the columns of accounts and cards, with which they are read.
KEY_COLUMNS: Final = (
    "k.merchant_id as caller_id, k.key, k.kind as key_kind, k.request_hash, k.hash_version,"
    " k.account_id as key_account_id, k.payment_id, k.card_id as key_card_id, k.answer, k.cancelled_at"
)


def account_of(row: asyncpg.Record) -> Account:
    return Account(
        account_id=row["account_id"],
        holder_name=row["holder_name"],
        status=row["status"],
        currency=row["currency"],
        limit_minor=row["limit_minor"],
        used_minor=row["used_minor"],
        sequence=row["sequence"],
        entry_number=row["entry_number"],
        entry_hash=row["entry_hash"],
        version=row["version"],
        is_unmatched=row["kind"] == "unmatched",
    )


def card_of(row: asyncpg.Record) -> Card:
    return Card(
        card_id=row["card_id"],
        account_id=row["account_id"],
        token=row["token"],
        masked=row["masked"],
        brand=row["brand"],
        expiry_month=row["expiry_month"],
        expiry_year=row["expiry_year"],
        status=row["card_status"],
        wrong_attempts=row["wrong_attempts"],
        wrong_since=row["wrong_since"],
    )


def payment_of(row: asyncpg.Record) -> PaymentState:
    return PaymentState(
        payment_id=row["payment_id"],
        status=row["status"],
        decline_code=row["decline_code"],
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
        captured_minor=row["captured_minor"],
        version=row["version"],
    )


def merchant_of(row: asyncpg.Record) -> Merchant:
    return Merchant(
        merchant_id=row["merchant_id"],
        name=row["name"],
        category_code=row["category_code"],
        is_open=row["status"] == "open",
        version=row["version"],
    )


def key_of(row: asyncpg.Record) -> TakenKey:
    return TakenKey(
        kind=row["key_kind"] or Authorize.kind,
        request_hash=row["request_hash"],
        hash_version=row["hash_version"] or 1,
        account_id=row["key_account_id"],
        payment_id=row["payment_id"],
        card_id=row["key_card_id"],
        answer=row["answer"],
        is_cancelled=row["cancelled_at"] is not None or row["request_hash"] is None,
    )
