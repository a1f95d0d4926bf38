"""The proof's arithmetic: what each side says, compared. Pure; who reads the sides stands in `store.py`.

Under load the sides are compared at a common sequence per account: what a side has not seen yet is lag, never a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

#: Differences shown of each check; the count tells of the others.
DIFFERENCES_SHOWN = 5


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
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing was found that does not fit."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Proof:
    """All checks, and how far the sides are apart in time."""

    checks: tuple[Check, ...]
    #: Events that the log or the statement have not seen yet.
    lag_events: int

    @property
    def agrees(self) -> bool:
        """Whether every side agrees with every other."""
        return all(check.holds for check in self.checks)


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


def check_of(name: str, promise: str, compared: int, differences: Iterable[str]) -> Check:
    """Make a check of what was found."""
    return Check(name, promise, compared, tuple(differences))


def compare_payments(
    ledger: Mapping[UUID, PaymentFact], other: Mapping[UUID, PaymentFact], seen: Mapping[UUID, int], side: str
) -> list[str]:
    """Tell where another side's payments are not the bank's.

    `ledger` is what the bank's events say, `seen` the last number that the other side has of each account: a payment
    whose first event came later is on its way.
    """
    differences = []
    for payment_id, fact in ledger.items():
        found = other.get(payment_id)
        if found is None:
            if fact.first_sequence <= seen.get(fact.account_id, 0):
                differences.append(f"payment {payment_id} of {fact.amount_minor} is missing on the {side}")
        elif fact.sequence <= seen.get(fact.account_id, 0) and not _same(fact, found):
            differences.append(f"payment {payment_id}: bank has {_words(fact)}, {side} has {_words(found)}")
    differences += [f"payment {payment_id} is on the {side} only" for payment_id in other if payment_id not in ledger]
    return differences


def _same(left: PaymentFact, right: PaymentFact) -> bool:
    return (left.account_id, left.status, left.amount_minor, left.refunded_minor) == (
        right.account_id,
        right.status,
        right.amount_minor,
        right.refunded_minor,
    )


def _words(fact: PaymentFact) -> str:
    return f"{fact.status} {fact.amount_minor} (returned {fact.refunded_minor})"


def gaps(sequences: Sequence[int]) -> list[str]:
    """Tell where an account's numbers, in the order of the log, are not 1, 2, 3 …"""
    differences = []
    for expected, found in enumerate(sequences, start=1):
        if found != expected:
            differences.append(f"event {found} stands where {expected} should")
            break
    return differences
