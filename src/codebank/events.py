"""Events: facts about an account, numbered 1, 2, 3 … per account, published once.

Each carries the whole public state of what it tells of, so that a reader needs no other source. Card numbers
are masked here already; nothing that must stay in the vault ever enters an event.

Enumerations are open: a newer bank may say what this release has no name for, so fields hold text, and a reader keeps
what it cannot name. It never decides anything from it.

Frozen structs rather than dataclasses: several are made and written for every payment (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Mapping
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
    #: An `AccountStatus`, or what a newer bank calls it.
    status: str
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
    #: A `PaymentStatus`, or what a newer bank calls it.
    status: str
    #: A `DeclineCode`, or what a newer bank calls it.
    decline_code: str | None
    #: What was authorised.
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
    #: What was charged of it, and how often the payment changed, from 1. Events of the first release tell neither:
    #: `wire.decode_event` says what they mean.
    captured_minor: int = 0
    version: int = 0


class CardState(Struct, frozen=True, kw_only=True, gc=False):
    """A card as everyone may see it."""

    card_id: UUID
    card_masked: str
    card_brand: str
    expiry_month: int
    expiry_year: int
    #: A `CardStatus`, or what a newer bank calls it.
    status: str


class Cause(Struct, frozen=True, kw_only=True, gc=False):
    """The operation that an event comes from, so that its key can be held against the event, or made from it."""

    #: Such as `authorize`.
    kind: str
    #: Whose key it is: the merchant, or the operator.
    caller_id: UUID
    #: SHA-256 of the key, in hexadecimal digits: keys are the callers' own words.
    key_hash: str
    #: The version and the keyed hash of the request, in hexadecimal digits.
    digest: str


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """What every event carries."""

    event_id: UUID
    #: One of `EVENT_TYPES`, or what a newer bank calls it.
    type: str
    account_id: UUID
    #: 1, 2, 3 … per account: a gap is a loss, a repeat is a double.
    sequence: int
    occurred_at: datetime
    #: The account after this event.
    account: AccountState
    #: None where no key was given, and on events of the first release.
    cause: Cause | None = None


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

#: What a type that is not known looks like, by the beginning of its name.
_SHAPES: Final = (("codebank.payment.", PaymentEvent), ("codebank.card.", CardEvent))


def shape_of(event_type: str) -> type[Event]:
    """Say which shape events of a type have; of one that is not known, what its name promises."""
    known = EVENT_TYPES.get(event_type)
    if known is not None:
        return known
    return next((shape for prefix, shape in _SHAPES if event_type.startswith(prefix)), Event)


PAYMENT_EVENT_TYPES: Final[Mapping[str, str]] = {
    PaymentStatus.APPROVED: PAYMENT_APPROVED,
    PaymentStatus.DECLINED: PAYMENT_DECLINED,
    PaymentStatus.REFUNDED: PAYMENT_REFUNDED,
}
