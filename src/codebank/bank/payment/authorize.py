"""Decides a charge: every reason to decline, in the order in which they are told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from codebank.bank.account.count import cause_of, counted, tell_payment
from codebank.bank.card.attempts import count_attempt, is_worn_out
from codebank.bank.ledger.entry import EntryKind, payment_entry
from codebank.bank.operation import Authorize, Changes, NewId, PaymentAnswer
from codebank.bank.state import Account, Card, Merchant, State
from codebank.card import is_expired
from codebank.events import AccountStatus, CardStatus, DeclineCode, PaymentState, PaymentStatus

#: Merchant categories (ISO 18245) in which stolen cards are turned into money, and the amount from which a single
#: charge there is refused as suspected fraud: money orders, quasi cash, gambling.
RISKY_CATEGORIES: Final = frozenset({"4829", "6051", "7995"})
RISKY_AMOUNT_MINOR: Final = 100_000

_CARD_DECLINES: Final[Mapping[str, DeclineCode]] = {
    CardStatus.LOST: DeclineCode.CARD_LOST,
    CardStatus.STOLEN: DeclineCode.CARD_STOLEN,
}


def decide_authorize(state: State, operation: Authorize, now: datetime, new_id: NewId) -> Changes:
    """Carry out a charge on an account: the payment, its entry and its event, or the decline and its event."""
    account, card, merchant = state.account, state.card, state.merchant
    assert account is not None
    assert merchant is not None
    code = why_declined(account, card, merchant, operation, now)
    entry, used_minor = None, account.used_minor
    if code is None:
        entry = payment_entry(
            EntryKind.CHARGE,
            account.account_id,
            merchant.merchant_id,
            operation.amount_minor,
            operation.currency,
            operation.payment_id,
            now,
            after_number=account.entry_number,
            after_hash=account.entry_hash,
        )
        used_minor += operation.amount_minor
        assert used_minor <= account.limit_minor
    after = counted(account, used_minor=used_minor, entry=entry)
    payment = _first_state(operation, card, merchant, code, now)
    return Changes(
        answer=PaymentAnswer(payment, operation.key.name if operation.key else ""),
        account=after,
        card=None if card is None else count_attempt(card, code, now),
        payment=payment,
        entries=() if entry is None else (entry,),
        events=(tell_payment(after, payment, cause_of(operation), now, new_id()),),
        at=now,
    )


def why_declined(
    account: Account, card: Card | None, merchant: Merchant, operation: Authorize, now: datetime
) -> str | None:
    """Decide a charge: None approves it. The first reason that applies is told."""
    if operation.forced is not None:
        return operation.forced
    if card is None:
        return DeclineCode.INVALID_NUMBER
    return (
        _why_card_declines(card, operation, now)
        or _why_merchant_declines(merchant, operation)
        or _why_account_declines(account, operation)
    )


def _why_card_declines(card: Card, operation: Authorize, now: datetime) -> DeclineCode | None:
    if card.status != CardStatus.ACTIVE:
        # A status that a newer release knows and this one does not is no reason to pay.
        return _CARD_DECLINES.get(card.status, DeclineCode.CARD_BLOCKED)
    if is_worn_out(card, now):
        return DeclineCode.TOO_MANY_ATTEMPTS
    if operation.expiry is not None and operation.expiry != (card.expiry_year, card.expiry_month):
        return DeclineCode.WRONG_EXPIRY
    if is_expired(card.expiry_year, card.expiry_month, now):
        return DeclineCode.EXPIRED_CARD
    return DeclineCode.WRONG_CVV if operation.cvv_fits is False else None


def _why_merchant_declines(merchant: Merchant, operation: Authorize) -> DeclineCode | None:
    if not merchant.is_open:
        return DeclineCode.INVALID_MERCHANT
    risky = merchant.category_code in RISKY_CATEGORIES and operation.amount_minor >= RISKY_AMOUNT_MINOR
    return DeclineCode.SUSPECTED_FRAUD if risky else None


def _why_account_declines(account: Account, operation: Authorize) -> DeclineCode | None:
    if account.status != AccountStatus.OPEN:
        return DeclineCode.ACCOUNT_CLOSED
    if operation.currency != account.currency:
        return DeclineCode.CURRENCY_NOT_HELD
    return DeclineCode.LIMIT_EXCEEDED if account.used_minor + operation.amount_minor > account.limit_minor else None


def _first_state(
    operation: Authorize, card: Card | None, merchant: Merchant, code: str | None, now: datetime
) -> PaymentState:
    return PaymentState(
        payment_id=operation.payment_id,
        status=PaymentStatus.APPROVED if code is None else PaymentStatus.DECLINED,
        decline_code=code,
        amount_minor=operation.amount_minor,
        currency=operation.currency,
        refunded_minor=0,
        parcelas=operation.parcelas,
        merchant_id=merchant.merchant_id,
        merchant_name=merchant.name,
        merchant_category=merchant.category_code,
        description=operation.description,
        card_masked=card.masked if card else operation.card_masked,
        card_brand=card.brand if card else operation.card_brand,
        card_id=card.card_id if card else None,
        created_at=now,
        updated_at=now,
        captured_minor=operation.amount_minor if code is None else 0,
        version=1,
    )


def refuse_cancelled(operation: Authorize, merchant: Merchant, now: datetime) -> PaymentAnswer:
    """Answer a charge whose key was cancelled before it came: declined, and nothing is kept of it."""
    payment = _first_state(operation, None, merchant, DeclineCode.CANCELLED_KEY, now)
    return PaymentAnswer(payment, operation.key.name if operation.key else "", is_stored=False)
