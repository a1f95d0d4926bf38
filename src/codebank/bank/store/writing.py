"""Writes what a batch decided, whatever kinds of operations it had: one statement, one commit.

The statement names the versions that were decided on; where one has moved it raises, and nothing of it stays. It is put
together from the parts that a batch needs, so that a charge does not pay for what only a cancellation writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg

from codebank.bank.deciding import Writes
from codebank.bank.ledger.entry import Entry
from codebank.bank.operation import NewCard
from codebank.events import Event
from codebank.runtime.postgres.pool import Connection
from codebank.wire import event_value

#: What `refuse_moved` raises (migration 0003).
_MOVED_STATE: Final = "CB001"


class Moved(Exception):
    """Something that was decided on has changed since; nothing was written."""


class KeyTaken(Exception):
    """A key, or a card's number, was taken by somebody else meanwhile; nothing was written."""


async def write(connection: Connection, writes: Writes) -> None:
    """Write a batch. Raises Moved or KeyTaken where somebody else was first; nothing is written then."""
    parts = [(part, rows) for part, rows in _parts(writes) if rows]
    statement = _statement(tuple(part for part, _ in parts))
    try:
        await connection.execute(statement, writes.now, *(rows for _, rows in parts))
    except asyncpg.UniqueViolationError as error:
        raise KeyTaken(str(error.constraint_name)) from None
    except asyncpg.PostgresError as error:
        if error.sqlstate == _MOVED_STATE:
            raise Moved from None
        raise


#: Part → the type of its rows (migration 0004), and its SQL over `n`, the rows given, `at` a moment.
_PARTS: Final[Mapping[str, tuple[str, str]]] = {
    "account": (
        "account_write",
        "update account a set used_minor = n.used_minor, sequence = n.sequence, entry_number = n.entry_number,"
        " entry_hash = n.entry_hash, version = n.version from {n}"
        " where a.account_id = n.account_id and a.version = n.version_before returning 1",
    ),
    "merchant": (
        "merchant_check",
        "select 1 from merchant m, {n} where m.merchant_id = n.merchant_id and m.version = n.version",
    ),
    "new_account": (
        "account_new",
        "insert into account (account_id, holder_name, currency, limit_minor, used_minor, sequence, entry_number,"
        " entry_hash, version, created_at) select n.*, {at} from {n} returning 1",
    ),
    "card": (
        "card_write",
        "update card c set status = n.status, wrong_attempts = n.wrong_attempts, wrong_since = n.wrong_since,"
        " version = n.version from {n} where (c.account_id, c.card_id) = (n.account_id, n.card_id)",
    ),
    "new_card": (
        "card_new",
        "insert into card (account_id, card_id, token, fingerprint, number_sealed, masked, brand, expiry_month,"
        " expiry_year, status, wrong_attempts, wrong_since, issue_key, version, created_at) select n.*, {at} from {n}"
        # The release before has one card issued for a key at a time, by this lock; without it, it fails on the other's.
        " cross join lateral (select pg_advisory_xact_lock(hashtext('issue'), hashtext(n.issue_key))) as alone",
    ),
    "new_payment": (
        "payment_new",
        "insert into payment (account_id, payment_id, merchant_id, idempotency_key, status, decline_code, amount_minor,"
        " captured_minor, refunded_minor, currency, parcelas, description, merchant_name, merchant_category, card_id,"
        " card_masked, card_brand, version, created_at, updated_at) select n.*, {at}, {at} from {n}",
    ),
    "payment": (
        "payment_write",
        "update payment p set status = n.status, captured_minor = n.captured_minor, refunded_minor = n.refunded_minor,"
        " version = n.version, updated_at = {at} from {n}"
        " where (p.account_id, p.payment_id) = (n.account_id, n.payment_id)",
    ),
    "entry": (
        "entry_new",
        "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,"
        " currency, payment_id, hash, kind, created_at) select n.*, {at} from {n}",
    ),
    "event": (
        "event_new",
        "insert into outbox (account_id, sequence, event_id, type, value, traceparent, occurred_at)"
        " select n.*, {at} from {n}",
    ),
    "key": (
        "key_new",
        "insert into idempotency_key (merchant_id, key, kind, request_hash, hash_version, account_id, payment_id,"
        " card_id, answer, cancelled_at, created_at) select n.*, {at} from {n}",
    ),
    "cancelled_key": (
        "key_cancelled",
        "update idempotency_key k set cancelled_at = {at} from {n}"
        " where (k.merchant_id, k.key) = (n.merchant_id, n.key)",
    ),
}
#: Parts whose rows must all be found as they were when they were read, or be new.
_DECIDED_ON: Final = ("account", "merchant")


@lru_cache(maxsize=256)
def _statement(parts: tuple[str, ...]) -> str:
    """Put the statement together; the same parts give the same text, which the driver has prepared already."""
    written, checks = [], []
    for number, part in enumerate(parts, 2):
        kind, sql = _PARTS[part]
        written.append(f"w_{part} as (" + sql.format(n=f"unnest(${number}::{kind}[]) as n", at="$1::timestamptz") + ")")
        if part in _DECIDED_ON:
            checks.append(f"(select count(*) from w_{part}) <> cardinality(${number})")
    moved = " or ".join(checks) or "false"
    return f"with {', '.join(written)} select case when {moved} then refuse_moved() end, $1::timestamptz"


def _parts(writes: Writes) -> Sequence[tuple[str, Sequence[tuple[Any, ...]]]]:
    """Give the rows of every part; those of accounts in the order of their ids, as everybody writes them."""
    return [
        ("account", [_account_row(writes, account_id) for account_id in sorted(writes.accounts)]),
        ("merchant", [(one.merchant_id, one.version) for one in writes.merchants.values()]),
        (
            "new_account",
            [
                (
                    one.account_id, one.holder_name, one.currency, one.limit_minor, one.used_minor, one.sequence,
                    one.entry_number, one.entry_hash, one.version,
                )
                for one in writes.new_accounts.values()
            ],
        ),
        (
            "card",
            [
                (
                    one.account_id, one.card_id, one.status, one.wrong_attempts, one.wrong_since,
                    _version_of(one.account_id, writes),
                )
                for one in writes.cards.values()
            ],
        ),
        ("new_card", [_new_card_row(one, writes) for one in writes.new_cards]),
        ("new_payment", [_new_payment_row(writes, payment_id) for payment_id in writes.new_payments]),
        (
            "payment",
            [
                (account_id, one.payment_id, one.status, one.captured_minor, one.refunded_minor, one.version)
                for payment_id, (account_id, one) in writes.payments.items()
                if payment_id not in writes.new_payments
            ],
        ),
        ("entry", [_entry_row(one) for one in writes.entries]),
        ("event", [_event_row(one, writes) for one in writes.events]),
        (
            "key",
            [
                (
                    *name, one.kind if one.request_hash else None, one.request_hash, one.hash_version, one.account_id,
                    one.payment_id, one.card_id, one.answer, writes.now if one.is_cancelled else None,
                )
                for name, one in writes.keys.items()
            ],
        ),
        ("cancelled_key", writes.cancelled),
    ]  # fmt: skip


def _account_row(writes: Writes, account_id: UUID) -> tuple[Any, ...]:
    one = writes.accounts[account_id]
    before = writes.read_versions[account_id]
    return (account_id, before, one.used_minor, one.sequence, one.entry_number, one.entry_hash, one.version)


def _new_card_row(new: NewCard, writes: Writes) -> tuple[Any, ...]:
    card = new.card
    # The release before looks for the operator's key with the card.
    issue_key = next((name for (_, name), key in writes.keys.items() if key.card_id == card.card_id), None)
    return (
        card.account_id, card.card_id, card.token, new.fingerprint, new.number_sealed, card.masked, card.brand,
        card.expiry_month, card.expiry_year, card.status, card.wrong_attempts, card.wrong_since, issue_key,
        _version_of(card.account_id, writes),
    )  # fmt: skip


def _new_payment_row(writes: Writes, payment_id: UUID) -> tuple[Any, ...]:
    account_id, key_name = writes.new_payments[payment_id]
    one = writes.payments[payment_id][1]
    return (
        account_id, payment_id, one.merchant_id, key_name, one.status, one.decline_code, one.amount_minor,
        one.captured_minor, one.refunded_minor, one.currency, one.parcelas, one.description, one.merchant_name,
        one.merchant_category, one.card_id, one.card_masked, one.card_brand, one.version,
    )  # fmt: skip


def _entry_row(one: Entry) -> tuple[Any, ...]:
    return (
        one.account_id, one.entry_number, one.debit_kind, one.debit_id, one.credit_kind, one.credit_id,
        one.amount_minor, one.currency, one.payment_id, one.hash, one.kind,
    )  # fmt: skip


def _event_row(one: Event, writes: Writes) -> tuple[Any, ...]:
    trace = writes.traces.get(one.event_id)
    return (one.account_id, one.sequence, one.event_id, one.type, event_value(one), trace)


def _version_of(account_id: UUID, writes: Writes) -> int:
    """Give the account's version with which a card of it changes."""
    account = writes.accounts.get(account_id) or writes.new_accounts[account_id]
    return account.version
