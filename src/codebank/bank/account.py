"""Accounts: decides whether money may move. Pure: `(state, request, now) -> decision + what changes`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from codebank.bank.ledger.entry import Entry, charge_entry, refund_entry
from codebank.card import is_expired
from codebank.events import (
    PAYMENT_EVENT_TYPES,
    AccountState,
    AccountStatus,
    CardStatus,
    DeclineCode,
    PaymentEvent,
    PaymentState,
    PaymentStatus,
)

#: Wrong CVVs or expiries within the window after which a card refuses everything until the window has passed.
WRONG_ATTEMPTS_MAX: Final = 5
WRONG_ATTEMPTS_WINDOW: Final = timedelta(minutes=15)
#: Merchant categories (ISO 18245) in which stolen cards are turned into money, and the amount from which a single
#: charge there is refused as suspected fraud: money orders, quasi cash, gambling.
RISKY_CATEGORIES: Final = frozenset({"4829", "6051", "7995"})
RISKY_AMOUNT_MINOR: Final = 100_000


class Account(Struct, frozen=True, kw_only=True, gc=False):
    """An account as this transaction sees it, under its lock."""

    account_id: UUID
    holder_name: str
    status: AccountStatus
    currency: str
    limit_minor: int
    used_minor: int
    #: Number of the last event.
    sequence: int
    #: Number and hash of the last ledger entry.
    entry_number: int
    entry_hash: bytes

    def state(self) -> AccountState:
        """Show the account as events tell it."""
        return AccountState(
            holder_name=self.holder_name,
            status=self.status,
            currency=self.currency,
            limit_minor=self.limit_minor,
            used_minor=self.used_minor,
        )


class Card(Struct, frozen=True, kw_only=True, gc=False):
    """A card as this transaction sees it, under its account's lock."""

    card_id: UUID
    account_id: UUID
    masked: str
    brand: str
    expiry_month: int
    expiry_year: int
    status: CardStatus
    wrong_attempts: int = 0
    wrong_since: datetime | None = None


class Merchant(Struct, frozen=True, kw_only=True, gc=False):
    """Who is paid."""

    merchant_id: UUID
    name: str
    category_code: str
    is_open: bool


class Charge(Struct, frozen=True, kw_only=True, gc=False):
    """A request to charge a card, its shape already checked."""

    payment_id: UUID
    merchant: Merchant
    idempotency_key: str
    request_hash: bytes
    amount_minor: int
    currency: str
    description: str
    parcelas: int
    card_masked: str
    card_brand: str
    #: Keyed MAC of the number; None where a token names the card.
    fingerprint: bytes | None
    token: str | None
    #: As typed; None where a token names the card.
    expiry: tuple[int, int] | None
    #: Whether the CVV is the one of this number and expiry; None where a token names the card.
    cvv_fits: bool | None
    #: Forced by a test card.
    forced: DeclineCode | None = None
    #: The trace that it belongs to, if that is recorded; decides nothing.
    traceparent: str = ""


class Outcome(Struct, frozen=True, gc=False):
    """What a decision changes."""

    account: Account
    #: The card where its count of wrong attempts changed.
    card: Card | None
    payment: PaymentState
    entry: Entry | None
    event: PaymentEvent


def why_declined(account: Account, card: Card | None, charge: Charge, now: datetime) -> DeclineCode | None:
    """Decide a charge: None approves it. The first reason that applies is told."""
    if charge.forced is not None:
        return charge.forced
    if card is None:
        return DeclineCode.INVALID_NUMBER
    return (
        _why_card_declines(card, charge, now)
        or _why_merchant_declines(charge)
        or _why_account_declines(account, charge)
    )


def _why_card_declines(card: Card, charge: Charge, now: datetime) -> DeclineCode | None:
    match card.status:
        case CardStatus.BLOCKED:
            return DeclineCode.CARD_BLOCKED
        case CardStatus.LOST:
            return DeclineCode.CARD_LOST
        case CardStatus.STOLEN:
            return DeclineCode.CARD_STOLEN
    if is_worn_out(card, now):
        return DeclineCode.TOO_MANY_ATTEMPTS
    if charge.expiry is not None and charge.expiry != (card.expiry_year, card.expiry_month):
        return DeclineCode.WRONG_EXPIRY
    if is_expired(card.expiry_year, card.expiry_month, now):
        return DeclineCode.EXPIRED_CARD
    return DeclineCode.WRONG_CVV if charge.cvv_fits is False else None


def _why_merchant_declines(charge: Charge) -> DeclineCode | None:
    if not charge.merchant.is_open:
        return DeclineCode.INVALID_MERCHANT
    risky = charge.merchant.category_code in RISKY_CATEGORIES and charge.amount_minor >= RISKY_AMOUNT_MINOR
    return DeclineCode.SUSPECTED_FRAUD if risky else None


def _why_account_declines(account: Account, charge: Charge) -> DeclineCode | None:
    if account.status is AccountStatus.CLOSED:
        return DeclineCode.ACCOUNT_CLOSED
    if charge.currency != account.currency:
        return DeclineCode.CURRENCY_NOT_HELD
    return DeclineCode.LIMIT_EXCEEDED if account.used_minor + charge.amount_minor > account.limit_minor else None


def is_worn_out(card: Card, now: datetime) -> bool:
    """Tell whether wrong attempts have used up the card's patience for now."""
    if card.wrong_since is None or card.wrong_attempts < WRONG_ATTEMPTS_MAX:
        return False
    return now - card.wrong_since < WRONG_ATTEMPTS_WINDOW


def count_attempt(card: Card, code: DeclineCode | None, now: datetime) -> Card | None:
    """Give the card with its count of wrong attempts after an answer, or None where nothing changes."""
    if code in {DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY}:
        if card.wrong_since is None or now - card.wrong_since >= WRONG_ATTEMPTS_WINDOW:
            return replace(card, wrong_attempts=1, wrong_since=now)
        return replace(card, wrong_attempts=card.wrong_attempts + 1)
    if code is None and card.wrong_attempts:
        return replace(card, wrong_attempts=0, wrong_since=None)
    return None


def authorize(
    account: Account, card: Card | None, charge: Charge, now: datetime, new_id: Callable[[], UUID]
) -> Outcome:
    """Carry out a charge on an account: the payment, its entry and its event, or the decline and its event."""
    code = why_declined(account, card, charge, now)
    entry = None
    entry_number, entry_hash, used_minor = account.entry_number, account.entry_hash, account.used_minor
    if code is None:
        entry = charge_entry(
            account.account_id,
            charge.merchant.merchant_id,
            charge.amount_minor,
            charge.currency,
            charge.payment_id,
            now,
            after_number=entry_number,
            after_hash=entry_hash,
        )
        entry_number, entry_hash = entry.entry_number, entry.hash
        used_minor += charge.amount_minor
        assert used_minor <= account.limit_minor
    after = _moved(account, used_minor, entry_number, entry_hash)
    payment = _first_state(charge, card, code, now)
    changed_card = None if card is None else count_attempt(card, code, now)
    return Outcome(after, changed_card, payment, entry, _event(after, payment, now, new_id()))


def refund(account: Account, payment: PaymentState, now: datetime, new_id: Callable[[], UUID]) -> Outcome:
    """Give an approved payment back whole: the reverse entry and its event."""
    assert payment.status is PaymentStatus.APPROVED
    entry = refund_entry(
        account.account_id,
        payment.merchant_id,
        payment.amount_minor,
        payment.currency,
        payment.payment_id,
        now,
        after_number=account.entry_number,
        after_hash=account.entry_hash,
    )
    after = _moved(account, account.used_minor - payment.amount_minor, entry.entry_number, entry.hash)
    assert after.used_minor >= 0
    given_back = replace(payment, status=PaymentStatus.REFUNDED, refunded_minor=payment.amount_minor, updated_at=now)
    return Outcome(after, None, given_back, entry, _event(after, given_back, now, new_id()))


def _moved(account: Account, used_minor: int, entry_number: int, entry_hash: bytes) -> Account:
    # Spelt out rather than `replace`: this runs once per payment.
    return Account(
        account_id=account.account_id,
        holder_name=account.holder_name,
        status=account.status,
        currency=account.currency,
        limit_minor=account.limit_minor,
        used_minor=used_minor,
        sequence=account.sequence + 1,
        entry_number=entry_number,
        entry_hash=entry_hash,
    )


def _first_state(charge: Charge, card: Card | None, code: DeclineCode | None, now: datetime) -> PaymentState:
    return PaymentState(
        payment_id=charge.payment_id,
        status=PaymentStatus.APPROVED if code is None else PaymentStatus.DECLINED,
        decline_code=code,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        refunded_minor=0,
        parcelas=charge.parcelas,
        merchant_id=charge.merchant.merchant_id,
        merchant_name=charge.merchant.name,
        merchant_category=charge.merchant.category_code,
        description=charge.description,
        card_masked=card.masked if card else charge.card_masked,
        card_brand=card.brand if card else charge.card_brand,
        card_id=card.card_id if card else None,
        created_at=now,
        updated_at=now,
    )


def _event(account: Account, payment: PaymentState, now: datetime, event_id: UUID) -> PaymentEvent:
    return PaymentEvent(
        event_id=event_id,
        type=PAYMENT_EVENT_TYPES[payment.status],
        account_id=account.account_id,
        sequence=account.sequence,
        occurred_at=now,
        account=account.state(),
        payment=payment,
    )
