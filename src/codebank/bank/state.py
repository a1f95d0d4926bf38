"""What a decision reads: accounts, cards, merchants, keys, as they are now. Pure."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from codebank.events import AccountState, PaymentState

#: A caller and its name for what it asks.
KeyName = tuple[UUID, str]


class Account(Struct, frozen=True, kw_only=True, gc=False):
    """A cardholder's credit account, or a merchant's own for refused payments whose card nobody knows."""

    account_id: UUID
    holder_name: str
    #: An `AccountStatus`, or what a newer release calls it.
    status: str
    currency: str
    limit_minor: int
    #: Balance owed plus holds.
    used_minor: int
    #: Number of the last event.
    sequence: int
    #: Number and hash of the last ledger entry.
    entry_number: int
    entry_hash: bytes
    #: Counted by every change of the account, its cards and its payments: what was decided on an older one is moot.
    version: int = 0
    #: Whether it is a merchant's own.
    is_unmatched: bool = False

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
    """A card of an account; every change of it counts the account's version."""

    card_id: UUID
    account_id: UUID
    #: Names the card to merchants.
    token: str
    masked: str
    brand: str
    expiry_month: int
    expiry_year: int
    #: A `CardStatus`, or what a newer release calls it.
    status: str
    wrong_attempts: int = 0
    wrong_since: datetime | None = None


class CardPlace(Struct, frozen=True, gc=False):
    """Where a card is. That never changes."""

    account_id: UUID
    card_id: UUID


class Merchant(Struct, frozen=True, kw_only=True, gc=False):
    """Who is paid."""

    merchant_id: UUID
    name: str
    #: ISO 18245.
    category_code: str
    is_open: bool
    version: int = 0


class TakenKey(Struct, frozen=True, kw_only=True, gc=False):
    """A key that its caller used before, and what it was used for."""

    #: Of the operation; what the release before took is an `authorize`, or an `issue_card`.
    kind: str
    #: None where nobody knows it: a tombstone, or a card that the release before issued.
    request_hash: bytes | None
    hash_version: int = 1
    account_id: UUID | None = None
    payment_id: UUID | None = None
    card_id: UUID | None = None
    #: What was answered first and may have changed since, packed; None: derived. See `first_answer`.
    answer: bytes | None = None
    #: A cancelled key never answers anything else than what it is now.
    is_cancelled: bool = False


class State(Struct, frozen=True, kw_only=True, gc=False):
    """What one operation is decided on."""

    #: None where there is none yet, or none of that name.
    account: Account | None = None
    card: Card | None = None
    merchant: Merchant | None = None
    #: The key that the operation names, and the payment that it made.
    target: TakenKey | None = None
    payment: PaymentState | None = None
