"""Decides a batch in arrival order, each operation seeing what the ones before it changed. Pure.

What a batch changes is gathered as rows to be written, each once, as it is in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from codebank.bank.first_answer import card_as_answered, pack, payment_as_answered
from codebank.bank.ledger.entry import Entry
from codebank.bank.operation import (
    Answer,
    Authorize,
    CardAnswer,
    Changes,
    IssueCard,
    Key,
    NewCard,
    NewId,
    Operation,
    PaymentAnswer,
    Reads,
)
from codebank.bank.payment.authorize import refuse_cancelled
from codebank.bank.rules import decide
from codebank.bank.state import Account, Card, CardPlace, KeyName, Merchant, State, TakenKey
from codebank.errors import Code, CodebankError
from codebank.events import Event, PaymentState


@dataclass
class Known:
    """What was read for a batch."""

    places: dict[bytes | str | UUID, CardPlace]
    merchants: dict[UUID, Merchant]
    accounts: dict[UUID, Account] = field(default_factory=dict)
    cards: dict[UUID, Card] = field(default_factory=dict)
    payments: dict[UUID, PaymentState] = field(default_factory=dict)
    keys: dict[KeyName, TakenKey] = field(default_factory=dict)


@dataclass
class Writes:
    """Everything that a batch changes."""

    now: datetime
    accounts: dict[UUID, Account] = field(default_factory=dict)
    #: The version that each account was decided on.
    read_versions: dict[UUID, int] = field(default_factory=dict)
    new_accounts: dict[UUID, Account] = field(default_factory=dict)
    cards: dict[UUID, Card] = field(default_factory=dict)
    new_cards: list[NewCard] = field(default_factory=list)
    #: Payment → its account and its key's name.
    new_payments: dict[UUID, tuple[UUID, str]] = field(default_factory=dict)
    #: Payment → its account and what it is in the end.
    payments: dict[UUID, tuple[UUID, PaymentState]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    keys: dict[KeyName, TakenKey] = field(default_factory=dict)
    #: Keys of earlier batches that are cancelled with this one.
    cancelled: list[KeyName] = field(default_factory=list)
    #: Merchants as they were decided on.
    merchants: dict[UUID, Merchant] = field(default_factory=dict)
    #: Event → the trace that it belongs to.
    traces: dict[UUID, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not (self.keys or self.accounts or self.new_accounts or self.cancelled)

    def bears_out(self, operations: Iterable[Operation], results: Iterable[object]) -> bool:
        """Whether the write tells if what every one of them was decided on is so: its account, and its key unused."""
        return all(
            not isinstance(result, CodebankError)
            and operation.key is not None
            and (operation.key.caller_id, operation.key.name) in self.keys
            for operation, result in zip(operations, results, strict=True)
        ) and all(key.account_id in self.accounts for key in self.keys.values())


@dataclass
class Deciding:
    """A batch under way."""

    known: Known
    now: datetime
    new_id: NewId
    writes: Writes = field(init=False)

    def __post_init__(self) -> None:
        self.writes = Writes(self.now)

    def answer(self, operation: Operation) -> Answer | CodebankError:
        """Decide the next operation, or give its first answer again."""
        reads = operation.reads()
        try:
            key = operation.key
            taken = self.known.keys.get((key.caller_id, key.name)) if key is not None else None
            if key is not None and taken is not None:
                return self._again(operation, key, taken)
            changes = decide(self._state(reads), operation, self.now, self.new_id)
        except CodebankError as error:
            return error
        self._take(operation, reads, changes)
        return changes.answer

    def _state(self, reads: Reads) -> State:
        known = self.known
        place = known.places.get(reads.card) if reads.card is not None else None
        target = known.keys.get(reads.target) if reads.target is not None else None
        account_id = account_of(reads, known.places, known.keys)
        return State(
            account=known.accounts.get(account_id) if account_id is not None else None,
            card=known.cards.get(place.card_id) if place is not None else None,
            merchant=known.merchants.get(reads.merchant_id) if reads.merchant_id is not None else None,
            target=target,
            payment=known.payments.get(target.payment_id) if target and target.payment_id else None,
        )

    def _again(self, operation: Operation, key: Key, taken: TakenKey) -> Answer:
        payment = self.known.payments.get(taken.payment_id) if taken.payment_id else None
        card = self.known.cards.get(taken.card_id) if taken.card_id else None
        if payment is None and card is None and isinstance(operation, Authorize):
            # A tombstone: cancelled before it came.
            return refuse_cancelled(operation, self.known.merchants[operation.merchant_id], self.now)
        account = self.known.accounts.get(taken.account_id) if taken.account_id else None
        if not _is_the_same(operation, key, taken, account):
            raise CodebankError(
                Code.KEY_REUSED,
                "this idempotency key was used for another request",
                hint="use a new key for a new request; repeat the same one to read its answer",
            )
        if payment is not None:
            shown = payment if taken.is_cancelled else payment_as_answered(payment, taken.answer)
            return PaymentAnswer(shown, key.name, replayed=True)
        assert card is not None
        assert account is not None
        return card_as_answered(account, card, taken.answer)

    def _take(self, operation: Operation, reads: Reads, changes: Changes) -> None:
        """Take note of what an operation changes, for the ones after it and for the writer."""
        known, writes, account = self.known, self.writes, changes.account
        if account is not None:
            self._take_account(account, is_new=changes.opens_account)
            if changes.card is not None:
                known.cards[changes.card.card_id] = writes.cards[changes.card.card_id] = changes.card
            if changes.payment is not None:
                payment = changes.payment
                known.payments[payment.payment_id] = payment
                writes.payments[payment.payment_id] = (account.account_id, payment)
                if payment.version == 1:
                    name = operation.key.name if operation.key else ""
                    writes.new_payments[payment.payment_id] = (account.account_id, name)
        if changes.new_card is not None:
            writes.new_cards.append(changes.new_card)
            known.cards[changes.new_card.card.card_id] = changes.new_card.card
        writes.entries += changes.entries
        writes.events += changes.events
        if operation.traceparent:
            writes.traces.update((event.event_id, operation.traceparent) for event in changes.events)
        if operation.key is not None:
            self._take_key(operation, operation.key, changes)
        if changes.cancels is not None:
            self._cancel(changes.cancels)
        if reads.merchant_id is not None:
            writes.merchants[reads.merchant_id] = known.merchants[reads.merchant_id]

    def _take_account(self, account: Account, *, is_new: bool) -> None:
        account_id, writes = account.account_id, self.writes
        if is_new or account_id in writes.new_accounts:
            writes.new_accounts[account_id] = account
        else:
            writes.read_versions.setdefault(account_id, self.known.accounts[account_id].version)
            writes.accounts[account_id] = account
        self.known.accounts[account_id] = account

    def _take_key(self, operation: Operation, key: Key, changes: Changes) -> None:
        answer, account = changes.answer, changes.account
        card_id = None
        if isinstance(answer, CardAnswer):
            account, card_id = answer.account, answer.card.card_id
        name = key.caller_id, key.name
        self.writes.keys[name] = self.known.keys[name] = TakenKey(
            kind=operation.kind,
            request_hash=key.request_hash,
            hash_version=key.hash_version,
            account_id=account.account_id if account is not None else None,
            payment_id=changes.payment.payment_id if changes.payment is not None else None,
            card_id=card_id,
            answer=pack(answer),
        )

    def _cancel(self, name: KeyName) -> None:
        keys, before = self.writes.keys, self.known.keys.get(name)
        if before is None:
            keys[name] = self.known.keys[name] = TakenKey(kind=Authorize.kind, request_hash=None, is_cancelled=True)
            return
        self.known.keys[name] = cancelled = replace(before, is_cancelled=True)
        if name in keys:
            keys[name] = cancelled
        else:
            self.writes.cancelled.append(name)


def account_of(
    reads: Reads, places: Mapping[bytes | str | UUID, CardPlace], keys: Mapping[KeyName, TakenKey]
) -> UUID | None:
    """Give the account that an operation is about, as far as it has one and these know it."""
    if reads.card is not None and (place := places.get(reads.card)) is not None:
        return place.account_id
    if reads.target is not None and (target := keys.get(reads.target)) is not None:
        return target.account_id
    return reads.account_id or reads.otherwise_account_id


def _is_the_same(operation: Operation, key: Key, taken: TakenKey, account: Account | None) -> bool:
    """Tell whether a request is the one that took its key."""
    if taken.kind != operation.kind:
        return False
    if taken.request_hash is not None:
        return (taken.hash_version, taken.request_hash) == (key.hash_version, key.request_hash)
    # A card that the release before issued: it kept no hash, so what is on file is compared.
    assert isinstance(operation, IssueCard)
    if operation.opens is None or account is None:
        return account is not None and account.account_id == operation.account_id
    asked = (operation.opens.holder_name, operation.opens.currency, operation.opens.limit_minor)
    return asked == (account.holder_name, account.currency, account.limit_minor)
