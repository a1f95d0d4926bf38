"""A payment of version n has n events and no more entries than changes, whoever wrote its row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest
from msgspec.structs import replace

from codebank.audit.proof.events import PartitionEvents
from codebank.audit.proof.partition import Comparison, PartitionSides, StatementSide
from codebank.audit.store.ledger import orphan_entries, payments_moved_wrongly
from codebank.bank.account.count import hash_of
from codebank.eventlog.log import Record, partition_of_account
from codebank.events import Cause, Event
from tests.audit.test_proof import hurt
from tests.conftest import Databases
from tests.statement.desk import ANA, START, Story, payment_id, record_of

pytestmark = pytest.mark.anyio
PAYMENT = payment_id(ANA, 1)
SHOP = UUID("01900000-0000-7000-8000-0000000000aa")


def changed(times: int) -> list[Event]:
    """Tell of one payment that was charged, and given back a cent at a time."""
    story = Story()
    for version in range(1, times + 1):
        more = {"version": version, "captured_minor": 1000, "refunded_minor": version - 1}
        story.paid(1000, payment_id=PAYMENT, **more)
    return list(story.events)


def compared(events: list[Event], version: int, **row: Any) -> list[str]:
    """Hold events of one account against its payment's row, and name what does not fit."""
    partition = partition_of_account(ANA)
    found = PartitionEvents(partition, {ANA: len(events)})
    for offset, event in enumerate(events):
        made = record_of(event)
        record = Record("t", partition, offset, offset, made.key, made.value, made.headers, START)
        found.add_record(record, is_passed=False)
    payment: Any = {
        "payment_id": PAYMENT, "account_id": ANA, "status": "approved", "amount_minor": 1000, "captured_minor": 1000,
        "refunded_minor": version - 1, "version": version,
    } | row  # fmt: skip
    statement = StatementSide({}, {}, 0, frozenset(), {})
    comparison = Comparison()
    comparison.add(PartitionSides(partition, {ANA: len(events)}, {PAYMENT: payment}, found, statement))
    return [difference.name for check in comparison.checks() for difference in check.differences]


@pytest.mark.parametrize("times", [1, 2, 3, 7])
def test_each_change_of_a_payment_is_one_event(times: int) -> None:
    assert compared(changed(times), times) == []
    assert compared(changed(times), times + 1) == ["changes"]
    if times > 1:
        assert compared(changed(times), times - 1) == ["changes"]


@pytest.mark.parametrize(
    "row", [{"status": "refunded"}, {"amount_minor": 999}, {"captured_minor": 999}, {"refunded_minor": 999}]
)
def test_the_last_event_says_what_the_row_says(row: dict[str, object]) -> None:
    assert compared(changed(3), 3, **row) == ["last_event"]


KEY = {"merchant_id": SHOP, "idempotency_key": "k-1", "digest": "1:ab"}


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({}, []),
        ({"idempotency_key": "k-2"}, ["request"]),
        ({"merchant_id": ANA}, ["request"]),
        ({"digest": "1:ac"}, ["request"]),
        ({"digest": "2:ab"}, ["request"]),
        ({"digest": None}, ["request"]),
    ],
)
def test_a_payment_is_of_the_request_that_its_first_event_names(row: dict[str, object], wrong: list[str]) -> None:
    first, second = changed(2)
    cause = Cause(kind="authorize", caller_id=SHOP, key_hash=hash_of("k-1"), digest="1:ab")
    # The second is of an operation that only a newer bank knows: it takes nothing of the first one's place.
    events = [replace(first, cause=cause), replace(second, cause=replace(cause, kind="reprice", digest="9:zz"))]

    assert compared(events, 2, **(KEY | row)) == wrong


def test_an_event_that_is_not_understood_may_be_the_one_that_is_missing_and_no_second() -> None:
    first, second, third = changed(3)
    # As a newer bank may fill the shape: what every event carries is there, its payment is told in another way.
    strange = Event(**{**asdict_of(second), "type": "codebank.payment.contested"})

    assert compared([first, strange, third], 3) == []
    assert compared([first, strange, third], 4) == ["changes"]


def asdict_of(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in Event.__struct_fields__}


@pytest.mark.parametrize(
    ("row", "entries", "fits"),
    [
        (("approved", None, 0, None), [("charge", 1000)], True),
        (("refunded", None, 1000, None), [("charge", 1000), ("refund", 1000)], True),
        (("declined", None, 0, None), [], True),
        (("approved", None, 0, None), [], False),
        (("approved", None, 0, None), [("charge", 500), ("charge", 500)], False),
        (("refunded", None, 1000, None), [("charge", 1000)], False),
        (("declined", None, 0, None), [("charge", 1000)], False),
        (("approved", 900, 500, 4), [("charge", 900), ("refund", 200), ("refund", 300)], True),
        (("approved", 900, 500, 2), [("charge", 900), ("refund", 200), ("refund", 300)], False),
        (("approved", 900, 500, 4), [("charge", 900), ("refund", 200)], False),
        (("contested", 900, 0, 2), [("charge", 900), ("fee", 30)], True),
        (("contested", 0, 0, 1), [("charge", 1000)], False),
    ],
)
async def test_entries_are_what_was_captured_and_given_back(
    databases: Databases, row: tuple[Any, ...], entries: list[tuple[str, int]], fits: bool
) -> None:
    bank = await databases.connect("bank")
    change = bank.transaction()
    await change.start()
    await write(bank, row, entries)

    wrong = await payments_moved_wrongly(bank)

    assert (wrong == []) is fits
    await change.rollback()
    await bank.close()


async def write(bank: asyncpg.Connection, row: tuple[Any, ...], entries: list[tuple[str, int]]) -> None:
    """Write a payment of 1000 and its entries by hand, in a transaction that is taken back."""
    status, captured_minor, refunded_minor, version = row
    await bank.execute("alter table payment drop constraint payment_status_check")
    await bank.execute(
        "insert into payment (account_id, payment_id, merchant_id, idempotency_key, status, decline_code, amount_minor,"
        " currency, captured_minor, refunded_minor, version, parcelas, description, merchant_name, merchant_category,"
        " card_masked, card_brand, created_at, updated_at) values ($1, $2, $1, 'k', $3, $4, 1000, 'BRL', $5, $6, $7, 1,"
        " '', '', '5462', '', '', now(), now())",
        *(ANA, PAYMENT, status, "limit_exceeded" if status == "declined" else None),
        *(captured_minor, refunded_minor, version),
    )
    for number, (kind, amount_minor) in enumerate(entries, start=1):
        debit, credit = ("payable", "receivable") if kind == "refund" else ("receivable", "payable")
        await bank.execute(
            "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,"
            " currency, payment_id, created_at, hash, kind)"
            " values ($1, $2, $3, $1, $4, $5, $6, 'BRL', $7, now(), $8, $9)",
            *(ANA, number, debit, credit, UUID(int=9), amount_minor, PAYMENT, bytes(32)),
            # The release before does not say what an entry is for.
            None if version is None else kind,
        )


async def test_an_entry_may_belong_to_something_else_than_a_payment(databases: Databases) -> None:
    await hurt(
        databases.dsn("bank", "postgres"),
        "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,"
        f" currency, payment_id, created_at, hash, kind) values ('{ANA}', 1, 'receivable', '{ANA}', 'income', '{ANA}',"
        " 5, 'BRL', null, now(), decode(repeat('00', 32), 'hex'), 'interest'),"
        f" ('{ANA}', 2, 'receivable', '{ANA}', 'payable', '{ANA}', 5, 'BRL', gen_random_uuid(), now(),"
        " decode(repeat('00', 32), 'hex'), 'charge')",
    )
    bank = await databases.connect("bank")

    orphans = await orphan_entries(bank)

    assert [row["entry_number"] for row in orphans] == [2]
    await bank.close()
