"""Counts an account on: every event has the next number, every change the next version. Pure."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from uuid import UUID

from codebank.bank.ledger.entry import Entry
from codebank.bank.operation import Key, Operation
from codebank.bank.state import Account
from codebank.events import PAYMENT_EVENT_TYPES, Cause, PaymentEvent, PaymentState


def counted(account: Account, *, used_minor: int | None = None, entry: Entry | None = None, events: int = 1) -> Account:
    """Give the account after a change that is told by so many events and written by at most one entry."""
    # Spelt out rather than `replace`: this runs once per payment.
    return Account(
        account_id=account.account_id,
        holder_name=account.holder_name,
        status=account.status,
        currency=account.currency,
        limit_minor=account.limit_minor,
        used_minor=account.used_minor if used_minor is None else used_minor,
        sequence=account.sequence + events,
        entry_number=entry.entry_number if entry else account.entry_number,
        entry_hash=entry.hash if entry else account.entry_hash,
        version=account.version + 1,
        is_unmatched=account.is_unmatched,
    )


def cause_of(operation: Operation) -> Cause | None:
    """Say which operation an event comes from; None where it has no key."""
    key: Key | None = operation.key
    if key is None:
        return None
    digest = f"{key.hash_version}:{key.request_hash.hex()}"
    return Cause(kind=operation.kind, caller_id=key.caller_id, key_hash=hash_of(key.name), digest=digest)


def hash_of(key_name: str) -> str:
    """Hash a key's name for an event: names are the callers' own words, and events are read by many."""
    return sha256(key_name.encode()).hexdigest()


def tell_payment(
    account: Account, payment: PaymentState, cause: Cause | None, now: datetime, event_id: UUID
) -> PaymentEvent:
    """Tell of a payment as it is after a change, with the account's next number."""
    return PaymentEvent(
        event_id=event_id,
        type=PAYMENT_EVENT_TYPES[payment.status],
        account_id=account.account_id,
        sequence=account.sequence,
        occurred_at=now,
        account=account.state(),
        cause=cause,
        payment=payment,
    )
