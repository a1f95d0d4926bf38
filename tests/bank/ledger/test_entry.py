"""The ledger's entries: both sides, the chain of hashes, and that no change stays unseen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from codebank.bank.ledger.entry import GENESIS_HASH, Entry, EntryKind, Kind, first_broken, payment_entry
from codebank.money import AMOUNT_MINOR_MAX

NOW = datetime(2026, 11, 23, 15, 0, 0, 123_456, tzinfo=UTC)
ACCOUNT, SHOP = UUID(int=1), UUID(int=2)
amounts = st.lists(st.tuples(st.booleans(), st.integers(1, AMOUNT_MINOR_MAX)), min_size=1, max_size=12)


def chain(moves: list[tuple[bool, int]]) -> list[Entry]:
    """Write charges (True) and refunds (False) one after the other."""
    entries: list[Entry] = []
    number, digest = 0, GENESIS_HASH
    for is_charge, amount in moves:
        kind = EntryKind.CHARGE if is_charge else EntryKind.REFUND
        entry = payment_entry(
            kind, ACCOUNT, SHOP, amount, "BRL", UUID(int=100 + number), NOW + timedelta(seconds=number),
            after_number=number, after_hash=digest,
        )  # fmt: skip
        entries.append(entry)
        number, digest = entry.entry_number, entry.hash
    return entries


#: For each column, a way to change it.
CHANGES: dict[str, Any] = {
    "account_id": None,  # the chain is the account's own: rows of another one are never read with it
    "entry_number": lambda value: value + 1,
    "debit_kind": lambda value: Kind.CASH,
    "debit_id": lambda value: UUID(int=9),
    "credit_kind": lambda value: Kind.INCOME,
    "credit_id": lambda value: UUID(int=9),
    "amount_minor": lambda value: value + 1,
    "currency": lambda value: "USD",
    "payment_id": lambda value: UUID(int=9),
    "created_at": lambda value: value + timedelta(microseconds=1),
    "hash": lambda value: bytes(32),
    "kind": None,  # the database holds it against the direction, which the hash has
}


def test_a_charge_debits_the_cardholder_and_credits_the_merchant() -> None:
    entry = chain([(True, 500)])[0]

    assert (entry.debit_kind, entry.debit_id) == (Kind.RECEIVABLE, ACCOUNT)
    assert (entry.credit_kind, entry.credit_id) == (Kind.PAYABLE, SHOP)
    assert (entry.entry_number, entry.amount_minor) == (1, 500)


def test_giving_back_is_the_same_the_other_way_round() -> None:
    charge, refund = chain([(True, 500), (False, 500)])

    assert (refund.debit_kind, refund.debit_id) == (charge.credit_kind, charge.credit_id)
    assert (refund.credit_kind, refund.credit_id) == (charge.debit_kind, charge.debit_id)
    assert refund.amount_minor == charge.amount_minor


@given(amounts)
@settings(max_examples=50, deadline=None)
def test_a_chain_as_it_was_written_is_whole(moves: list[tuple[bool, int]]) -> None:
    assert first_broken(chain(moves)) is None


@pytest.mark.parametrize("column", [name for name in Entry.__struct_fields__ if CHANGES[name]])
def test_a_change_of_any_column_breaks_the_chain_there(column: str) -> None:
    entries = chain([(True, 500), (True, 700), (False, 500)])
    entries[1] = replace(entries[1], **{column: CHANGES[column](getattr(entries[1], column))})

    assert first_broken(entries) == 2


@given(amounts.filter(lambda moves: len(moves) >= 2), st.data())
@settings(max_examples=50, deadline=None)
def test_a_missing_or_a_moved_entry_breaks_the_chain_there(moves: list[tuple[bool, int]], data: st.DataObject) -> None:
    entries = chain(moves)
    place = data.draw(st.integers(0, len(entries) - 2))

    without = entries[:place] + entries[place + 1 :]
    swapped = [*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]]

    assert first_broken(without) == place + 1
    assert first_broken(swapped) == place + 1


def test_the_hash_does_not_depend_on_the_zone_in_which_a_time_is_told() -> None:
    elsewhere = datetime.fromisoformat("2026-11-23T12:00:00.123456-03:00")
    entry = chain([(True, 500)])[0]

    assert elsewhere == NOW
    assert first_broken([replace(entry, created_at=elsewhere)]) is None


def test_an_account_without_entries_has_a_whole_chain() -> None:
    assert first_broken([]) is None
