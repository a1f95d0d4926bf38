"""Ledger entries: debit one account, credit another, chained by hash. Pure.

A charge of a card debits the cardholder's receivable (they owe the bank) and credits the merchant's payable (the
bank owes them). Giving back is the same entry the other way round; no entry is ever changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from msgspec import Struct

#: The hash before the first entry of an account.
GENESIS_HASH: Final = bytes(32)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Kind(StrEnum):
    """Kinds of ledger account."""

    #: What a cardholder owes.
    RECEIVABLE = "receivable"
    #: What a merchant is owed.
    PAYABLE = "payable"
    #: Interest and fees.
    INCOME = "income"
    #: Bill payments and settlement.
    CASH = "cash"


class EntryKind(StrEnum):
    """Why money moved."""

    CHARGE = "charge"
    REFUND = "refund"


class Entry(Struct, frozen=True, gc=False):
    """One row of the ledger."""

    account_id: UUID
    #: 1, 2, 3 … per account.
    entry_number: int
    debit_kind: Kind
    debit_id: UUID
    credit_kind: Kind
    credit_id: UUID
    amount_minor: int
    currency: str
    #: None where it belongs to no payment.
    payment_id: UUID | None
    created_at: datetime
    hash: bytes
    #: An `EntryKind`; None where the release before wrote it: then its direction tells.
    kind: str | None


def payment_entry(
    kind: EntryKind,
    account_id: UUID,
    merchant_id: UUID,
    amount_minor: int,
    currency: str,
    payment_id: UUID,
    now: datetime,
    *,
    after_number: int,
    after_hash: bytes,
) -> Entry:
    """Write what a charge or a refund moves, as the next entry of the account's chain."""
    receivable, payable = (Kind.RECEIVABLE, account_id), (Kind.PAYABLE, merchant_id)
    debit, credit = (receivable, payable) if kind is EntryKind.CHARGE else (payable, receivable)
    number = after_number + 1
    digest = chain_hash(after_hash, number, debit, credit, amount_minor, currency, payment_id, now)
    return Entry(account_id, number, *debit, *credit, amount_minor, currency, payment_id, now, digest, kind)


def chain_hash(
    before: bytes,
    number: int,
    debit: tuple[str, UUID],
    credit: tuple[str, UUID],
    amount_minor: int,
    currency: str,
    payment_id: UUID | None,
    at: datetime,
) -> bytes:
    """Hash an entry together with the hash of the one before it (SHA-256).

    The kind of a charge and of a refund is its direction, which the hash has: chains of the first release go on.
    """
    micros = (at - _EPOCH) // _MICROSECOND
    text = f"{number}|{debit[0]}:{debit[1]}|{credit[0]}:{credit[1]}|{amount_minor}|{currency}|{payment_id}|{micros}"
    return hashlib.sha256(before + text.encode()).digest()


@dataclass
class Chain:
    """An account's entries as they come, each held against the one before."""

    length: int = 0
    hash: bytes = GENESIS_HASH
    #: Number of the first entry whose number or hash does not follow.
    broken_at: int | None = None

    def add(self, entry: Entry) -> None:
        """Check the next entry; after one that does not follow, nothing more is said."""
        if self.broken_at is not None:
            return
        number = self.length + 1
        digest = chain_hash(
            self.hash,
            number,
            (entry.debit_kind, entry.debit_id),
            (entry.credit_kind, entry.credit_id),
            entry.amount_minor,
            entry.currency,
            entry.payment_id,
            entry.created_at,
        )
        if entry.entry_number != number or entry.hash != digest:
            self.broken_at = number
            return
        self.length, self.hash = number, entry.hash


def first_broken(entries: Iterable[Entry]) -> int | None:
    """Give the number of the first entry of an account whose number or hash does not follow, or None."""
    chain = Chain()
    for entry in entries:
        chain.add(entry)
    return chain.broken_at
