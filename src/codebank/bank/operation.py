"""What may be asked of the bank, and what a decision changes: the two shapes that the rest of the bank speaks. Pure.

An operation is data. `rules.decide(state, operation, now, new_id)` turns it into `Changes`; the executor reads the
state before and writes the changes after, whatever kinds they are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from msgspec import Struct

from codebank.bank.ledger.entry import Entry
from codebank.bank.state import Account, Card, KeyName
from codebank.events import CardStatus, Event, PaymentState

#: The caller of operators' calls: there is one operator, whatever key it signs in with.
OPERATOR_ID: Final = UUID("01900000-0000-7000-8000-0000000000ff")

NewId = Callable[[], UUID]


class Key(Struct, frozen=True, gc=False):
    """A caller's own name for what it asks, so that asking again is safe."""

    #: The merchant or the operator, never the credential that it signed in with.
    caller_id: UUID
    name: str
    request_hash: bytes
    #: How the hash was made.
    hash_version: int = 1


class Reads(Struct, frozen=True, kw_only=True, gc=False):
    """What an operation is to be decided on; the executor reads it, whatever kind of operation asks."""

    account_id: UUID | None = None
    #: A card by the keyed MAC of its number, its token or its id: it and its account.
    card: bytes | str | UUID | None = None
    #: The account that it is where nobody knows the card.
    otherwise_account_id: UUID | None = None
    merchant_id: UUID | None = None
    #: A key that was used before: its payment and that one's account.
    target: KeyName | None = None


class Operation(Struct, frozen=True, kw_only=True, gc=False):
    """Something that changes the bank, its shape already checked."""

    kind: ClassVar[str]

    #: None where repeating is safe without one.
    key: Key | None = None
    #: The trace that it belongs to, if that is recorded; decides nothing.
    traceparent: str = ""

    def reads(self) -> Reads:
        """Say what it is to be decided on."""
        return Reads()

    def marks(self) -> dict[str, str]:
        """Name what its span in a trace is found by."""
        return {}


class Authorize(Operation, frozen=True, kw_only=True, gc=False):
    """Charge a card."""

    kind: ClassVar[str] = "authorize"

    payment_id: UUID
    merchant_id: UUID
    amount_minor: int
    currency: str
    description: str
    parcelas: int
    card_masked: str
    card_brand: str
    #: Keyed MAC of the number, or the card's token.
    handle: bytes | str
    #: Year and month as typed; None where a token names the card.
    expiry: tuple[int, int] | None
    #: Whether the CVV is the one of this number and expiry; None where a token names the card.
    cvv_fits: bool | None
    #: The decline code that a test card forces.
    forced: str | None = None

    def reads(self) -> Reads:
        # A charge of a card that nobody knows belongs to the merchant's own account of unmatched attempts, so that it
        # has an order, a sequence and an event like any other.
        return Reads(card=self.handle, otherwise_account_id=self.merchant_id, merchant_id=self.merchant_id)

    def marks(self) -> dict[str, str]:
        return {"codebank__payment_id": str(self.payment_id)}


class Cancel(Operation, frozen=True, kw_only=True, gc=False):
    """Make sure that a merchant's key is never charged. Needs no key of its own: once done, it stays done."""

    kind: ClassVar[str] = "cancel"

    merchant_id: UUID
    #: Name of the merchant's key.
    target: str

    def reads(self) -> Reads:
        return Reads(target=(self.merchant_id, self.target))


class OpenAccount(Operation, frozen=True, kw_only=True, gc=False):
    """Open an account for a cardholder."""

    kind: ClassVar[str] = "open_account"

    account_id: UUID
    holder_name: str
    currency: str
    limit_minor: int

    def reads(self) -> Reads:
        return Reads(account_id=self.account_id)


class IssueCard(Operation, frozen=True, kw_only=True, gc=False):
    """Issue a card on an account, or on one that is opened with it."""

    kind: ClassVar[str] = "issue_card"

    account_id: UUID
    #: The account to open; None where it is there.
    opens: OpenAccount | None
    card: Card
    fingerprint: bytes
    number_sealed: bytes

    def reads(self) -> Reads:
        return Reads(account_id=self.account_id)


class BlockCard(Operation, frozen=True, kw_only=True, gc=False):
    """Refuse every further charge of a card."""

    kind: ClassVar[str] = "block_card"

    card_id: UUID
    #: Blocked, lost or stolen.
    status: CardStatus

    def reads(self) -> Reads:
        return Reads(card=self.card_id)


class UnblockCard(Operation, frozen=True, kw_only=True, gc=False):
    """Let a blocked card pay again."""

    kind: ClassVar[str] = "unblock_card"

    card_id: UUID

    def reads(self) -> Reads:
        return Reads(card=self.card_id)


class PaymentAnswer(Struct, frozen=True, gc=False):
    """What is answered to a charge."""

    payment: PaymentState
    #: The merchant's name for it.
    key_name: str
    #: Whether this is the first answer given again.
    replayed: bool = False
    #: False where a cancelled key was refused: then there is no payment.
    is_stored: bool = True


class CancelOutcome(StrEnum):
    """How a Cancel ended."""

    KEY_CLOSED = "key_closed"
    REFUNDED = "refunded"
    NOTHING_CHARGED = "nothing_charged"


class CancelAnswer(Struct, frozen=True, gc=False):
    """How the key stands now, and the payment that it had made."""

    outcome: CancelOutcome
    #: None where the key was not seen before.
    payment: PaymentState | None
    key_name: str


class CardAnswer(Struct, frozen=True, gc=False):
    """A card with its account, as an operator may see it."""

    account: Account
    card: Card
    replayed: bool = False


class AccountAnswer(Struct, frozen=True, gc=False):
    """The account as it stands, opened now or before."""

    account: Account


Answer = PaymentAnswer | CancelAnswer | CardAnswer | AccountAnswer


class NewCard(Struct, frozen=True, gc=False):
    """What the vault keeps of a card that is issued."""

    card: Card
    fingerprint: bytes
    number_sealed: bytes


class Changes(Struct, frozen=True, kw_only=True, gc=False):
    """What a decision changes; nothing of it where only the answer is there."""

    answer: Answer
    #: The account after it, numbered and counted on; its version is the one decided on, plus one.
    account: Account | None = None
    #: Whether the account is new with it.
    opens_account: bool = False
    #: The card after it, where that changed.
    card: Card | None = None
    new_card: NewCard | None = None
    #: The payment after it; version 1 is a new one.
    payment: PaymentState | None = None
    entries: tuple[Entry, ...] = ()
    events: tuple[Event, ...] = ()
    #: A merchant's key that answers from now on only what it is: cancelled or refunded.
    cancels: KeyName | None = None
    #: When it was decided.
    at: datetime
