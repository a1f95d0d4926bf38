"""The proof's arithmetic: what each side says, compared. Pure; who reads the sides stands in `store/`.

Under load the sides are compared at a common sequence per account: what a side has not seen yet is lag, never a loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

#: Differences shown of each check; the count tells of the others.
DIFFERENCES_SHOWN = 5


#: Every kind of difference, in the words of the terminal; pages have their own, with amounts as people write them.
SENTENCES: Final = {
    "unbalanced": "{currency}: debits {debit_minor}, credits {credit_minor}",
    "orphan_entry": "entry {number} of account {account} has no payment",
    "used": "account {account}: used {used_minor} of {limit_minor}, entries say {moved_minor}",
    "moved": "payment {payment} {status} {amount_minor}: {count} entries, charged {charged_minor},"
    " returned {returned_minor}",
    "no_key": "payment {payment} has not taken its key: a repeat would charge again",
    "key": "a key was taken by payment {payment}, which does not exist",
    "changes": "payment {payment} {status} changed {version} times, {count} events tell of it",
    "request": "payment {payment} has another key, or one of another request, than its first event says",
    "last_event": "payment {payment} is {status}, its last event says {other_status}",
    "no_payment": "event of payment {payment}: no such payment",
    "numbers": "account {account}: {count} events, its last number is {last}",
    "repeated": "event {event} is on the log more than once",
    "astray": "event {event} of account {account} is on partition {partition}, not with the account's others",
    "misfiled": "event {event}, number {number} of account {account}, is under the key of {key}",
    "malformed": "event {number} of account {account} waits to be shipped and cannot be read",
    "unreadable": "record {offset} of partition {partition} cannot be read, and was not put aside",
    "gap": "account {account}: event {found} stands where {expected} should",
    "put_aside": "event {number} of account {account} was put aside: record {offset} of partition {partition}",
    "missing": "payment {payment} of {amount_minor} is missing on the {side}",
    "differs": "payment {payment}: bank has {status} {amount_minor} (returned {refunded_minor}),"
    " {side} has {other_status} {other_amount_minor} (returned {other_refunded_minor})",
    "currency": "payment {payment} is in {currency} at the bank, in {other_currency} on the {side}",
    "extra": "payment {payment} is on the {side} only",
    "document": "a document of the search index tells of no payment: {document}",
    "indexed_twice": "a payment is in the search index more than once: {count} documents, {found} payments",
    "order_unpaid": "order {order} is paid, its payment is {status}",
    "order_amount": "order {order} of {amount_minor} was charged {charged_minor}",
    "order_approved": "order {order} is {status}, its payment is approved",
    "no_order": "payment {payment} of {amount_minor} has no order",
    "chain": "account {account}: entry {number} does not follow",
}


class Difference(str):
    """One thing that does not fit: a sentence for the terminal, and its values for whoever has other words."""

    name: str
    values: Mapping[str, object]
    #: Of every value whose name ends in `_minor`.
    currency: str

    def __new__(cls, name: str, currency: str = "", **values: object) -> Difference:
        """Write the sentence."""
        made = super().__new__(cls, SENTENCES[name].format(currency=currency, **values))
        made.name, made.currency, made.values = name, currency, {"currency": currency, **values}
        return made


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant, and how it stands."""

    #: Short name, as the metric and the page use it.
    name: str
    #: What must hold, in a sentence.
    promise: str
    #: How many things were looked at.
    compared: int
    #: What does not fit, in words; empty where the invariant holds.
    differences: tuple[Difference, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was found that does not fit."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Proof:
    """All checks, and how far the sides are apart in time."""

    checks: tuple[Check, ...]
    #: Events that the side furthest behind has not seen yet.
    lag_events: int
    #: Who was compared.
    parties: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether every side agrees with every other."""
        return all(check.holds for check in self.checks)

    def document(self) -> dict[str, Any]:
        """Show the proof as programs read it."""
        return {
            "agrees": self.agrees,
            "lag_events": self.lag_events,
            "parties": self.parties,
            "checks": [
                {
                    "name": check.name,
                    "promise": check.promise,
                    "holds": check.holds,
                    "compared": check.compared,
                    "differences": [str(difference) for difference in check.differences],
                }
                for check in self.checks
            ],
        }


@dataclass(frozen=True, slots=True)
class PaymentFact:
    """What one side says of a payment."""

    account_id: UUID
    payment_id: UUID
    status: str
    amount_minor: int
    refunded_minor: int
    #: Number of the event that said so, and of the payment's first.
    sequence: int
    first_sequence: int
    #: Empty where the side does not tell.
    currency: str = ""
    #: None where the side does not tell.
    captured_minor: int | None = None


@dataclass(frozen=True, slots=True)
class PutAside:
    """An event that the statement put aside and has not applied since, and where it lies."""

    account_id: UUID
    number: int
    partition: int
    offset: int

    def difference(self) -> Difference:
        """Name it, in place of what is missing because of it."""
        return Difference(
            "put_aside", number=self.number, account=self.account_id, partition=self.partition, offset=self.offset
        )


#: Per account, by number.
AllPutAside = Mapping[UUID, Mapping[int, PutAside]]


@dataclass
class Findings:
    """A check that is made portion by portion."""

    name: str
    promise: str
    _compared: int = 0
    _differences: list[Difference] = field(default_factory=list)

    def add(self, compared: int, differences: Iterable[Difference]) -> None:
        """Take note of a portion."""
        self._compared += compared
        self._differences += differences

    def check(self) -> Check:
        """Say what was found in all of them."""
        return check_of(self.name, self.promise, self._compared, self._differences)


def check_of(name: str, promise: str, compared: int, differences: Iterable[Difference]) -> Check:
    """Make a check of what was found."""
    return Check(name, promise, compared, tuple(differences))


def compare_payments(
    ledger: Mapping[UUID, PaymentFact],
    other: Mapping[UUID, PaymentFact],
    seen: Mapping[UUID, int],
    side: str,
    put_aside: AllPutAside | None = None,
) -> list[Difference]:
    """Tell where another side's payments are not the bank's.

    `ledger` is what the bank's events say, `seen` the last number that the other side has of each account: a payment
    whose first event came later is on its way. One that is not there for an event on file in `put_aside` is named so.
    """
    differences = []
    for payment_id, fact in ledger.items():
        aside, found = (put_aside or {}).get(fact.account_id, {}), other.get(payment_id)
        if found is None:
            if fact.first_sequence <= seen.get(fact.account_id, 0):
                differences.append(_on_file(aside, fact.first_sequence) or _missing(fact, side))
        elif fact.sequence <= seen.get(fact.account_id, 0) and not _same(fact, found):
            differences.append(_on_file(aside, fact.sequence) or _differ(fact, found, side))
    differences += [
        Difference("extra", payment=payment_id, side=side) for payment_id in other if payment_id not in ledger
    ]
    return differences


def _on_file(put_aside: Mapping[int, PutAside], number: int) -> Difference | None:
    found = put_aside.get(number)
    return None if found is None else found.difference()


def _same(left: PaymentFact, right: PaymentFact) -> bool:
    return _same_currency(left, right) and (left.account_id, left.status, left.amount_minor, left.refunded_minor) == (
        right.account_id,
        right.status,
        right.amount_minor,
        right.refunded_minor,
    )


def _same_currency(left: PaymentFact, right: PaymentFact) -> bool:
    return not left.currency or not right.currency or left.currency == right.currency


def _missing(fact: PaymentFact, side: str) -> Difference:
    return Difference("missing", fact.currency, payment=fact.payment_id, amount_minor=fact.amount_minor, side=side)


def _differ(fact: PaymentFact, found: PaymentFact, side: str) -> Difference:
    if not _same_currency(fact, found):
        return Difference("currency", fact.currency, payment=fact.payment_id, other_currency=found.currency, side=side)
    return Difference(
        "differs",
        fact.currency,
        payment=fact.payment_id,
        status=str(fact.status),
        amount_minor=fact.amount_minor,
        refunded_minor=fact.refunded_minor,
        side=side,
        other_status=str(found.status),
        other_amount_minor=found.amount_minor,
        other_refunded_minor=found.refunded_minor,
    )


def first_gap(numbers: Sequence[int], on_file: Collection[int] = ()) -> tuple[int, int] | None:
    """Tell where an account's numbers, in the order of the log, are not 1, 2, 3 …: what should stand, and what does.

    A number on file may be left out: why it is not there is known.
    """
    expected = 1
    for found in numbers:
        while expected != found and expected in on_file:
            expected += 1
        if found != expected:
            return expected, found
        expected += 1
    return None
