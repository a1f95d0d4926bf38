"""Events: facts about an account, numbered 1, 2, 3 … per account, published once.

Each carries the whole public state of what it tells of, so that a reader needs no other source. Card numbers
are masked here already; nothing that must stay in the vault ever enters an event.

Frozen structs rather than dataclasses: several are made and written for every payment (docs/decisions/0005).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import Struct

#: The topic of every event of an account; the key is the account's id.
PAYMENTS_TOPIC: Final = "codebank.payments"
#: Where a reader puts records that it cannot understand, with the reason.
DEAD_LETTERS_TOPIC: Final = "codebank.dead-letters"
#: The same of Kafka Connect, which writes them in its own way.
SEARCH_DEAD_LETTERS_TOPIC: Final = "codebank.dead-letters.search"
#: The consumer group that makes the statement.
STATEMENT_GROUP: Final = "statement"


def key_of(account_id: UUID) -> bytes:
    """Give the key of an account's events: it keeps them in one partition, and in order."""
    return str(account_id).encode()


class PaymentStatus(StrEnum):
    """Where a payment stands."""

    APPROVED = "approved"
    DECLINED = "declined"
    #: Approved first, then given back whole.
    REFUNDED = "refunded"


class Advice(StrEnum):
    """What a buyer may do about a decline."""

    FIX_THE_DATA = "fix_the_data"
    TRY_AGAIN_LATER = "try_again_later"
    DO_NOT_TRY_AGAIN = "do_not_try_again"


class DeclineCode(StrEnum):
    """Why the bank refused a payment."""

    INVALID_NUMBER = "invalid_number"
    WRONG_CVV = "wrong_cvv"
    EXPIRED_CARD = "expired_card"
    WRONG_EXPIRY = "wrong_expiry"
    CARD_BLOCKED = "card_blocked"
    CARD_LOST = "card_lost"
    CARD_STOLEN = "card_stolen"
    ACCOUNT_CLOSED = "account_closed"
    LIMIT_EXCEEDED = "limit_exceeded"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    SUSPECTED_FRAUD = "suspected_fraud"
    CURRENCY_NOT_HELD = "currency_not_held"
    INVALID_MERCHANT = "invalid_merchant"
    CANCELLED_KEY = "cancelled_key"


class AccountStatus(StrEnum):
    """Whether an account may pay."""

    OPEN = "open"
    CLOSED = "closed"


class CardStatus(StrEnum):
    """Whether a card may pay."""

    ACTIVE = "active"
    BLOCKED = "blocked"
    LOST = "lost"
    STOLEN = "stolen"


class AccountState(Struct, frozen=True, kw_only=True, gc=False):
    """An account as it stands after an event."""

    holder_name: str
    status: AccountStatus
    currency: str
    limit_minor: int
    #: Balance owed plus holds.
    used_minor: int

    @property
    def available_minor(self) -> int:
        """What may still be spent."""
        return self.limit_minor - self.used_minor


class PaymentState(Struct, frozen=True, kw_only=True, gc=False):
    """A payment as everyone may see it."""

    payment_id: UUID
    status: PaymentStatus
    decline_code: DeclineCode | None
    amount_minor: int
    currency: str
    refunded_minor: int
    parcelas: int
    merchant_id: UUID
    merchant_name: str
    #: ISO 18245 merchant category code.
    merchant_category: str
    description: str
    #: Such as `•••• 1234`.
    card_masked: str
    card_brand: str
    #: None where nobody knows the card.
    card_id: UUID | None
    created_at: datetime
    updated_at: datetime


class CardState(Struct, frozen=True, kw_only=True, gc=False):
    """A card as everyone may see it."""

    card_id: UUID
    card_masked: str
    card_brand: str
    expiry_month: int
    expiry_year: int
    status: CardStatus


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """What every event carries."""

    event_id: UUID
    #: One of `EVENT_TYPES`.
    type: str
    account_id: UUID
    #: 1, 2, 3 … per account: a gap is a loss, a repeat is a double.
    sequence: int
    occurred_at: datetime
    #: The account after this event.
    account: AccountState


class PaymentEvent(Event, frozen=True, kw_only=True, gc=False):
    """A payment was approved, declined or given back."""

    payment: PaymentState


class CardEvent(Event, frozen=True, kw_only=True, gc=False):
    """A card was issued, blocked or unblocked."""

    card: CardState


class AccountEvent(Event, frozen=True, kw_only=True, gc=False):
    """An account was opened."""


PAYMENT_APPROVED: Final = "codebank.payment.approved"
PAYMENT_DECLINED: Final = "codebank.payment.declined"
PAYMENT_REFUNDED: Final = "codebank.payment.refunded"
CARD_ISSUED: Final = "codebank.card.issued"
CARD_BLOCKED: Final = "codebank.card.blocked"
CARD_UNBLOCKED: Final = "codebank.card.unblocked"
ACCOUNT_OPENED: Final = "codebank.account.opened"

#: Which shape each type has.
EVENT_TYPES: Final[dict[str, type[Event]]] = {
    PAYMENT_APPROVED: PaymentEvent,
    PAYMENT_DECLINED: PaymentEvent,
    PAYMENT_REFUNDED: PaymentEvent,
    CARD_ISSUED: CardEvent,
    CARD_BLOCKED: CardEvent,
    CARD_UNBLOCKED: CardEvent,
    ACCOUNT_OPENED: AccountEvent,
}

PAYMENT_EVENT_TYPES: Final = {
    PaymentStatus.APPROVED: PAYMENT_APPROVED,
    PaymentStatus.DECLINED: PAYMENT_DECLINED,
    PaymentStatus.REFUNDED: PAYMENT_REFUNDED,
}
