"""A payment's journey with any number of changes, and how its events are found on the log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from codebank.audit.control.event_finder import EventFinder
from codebank.audit.control.journey import PaymentSides, SeenEvent, Stage, Standing, journey_of
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import EventLog, partition_of_account
from codebank.events import PAYMENTS_TOPIC
from codebank.settings import Settings
from tests.audit.test_control import buy, control_room
from tests.audit.test_proof import hurt
from tests.audit.test_versions import PAYMENT, changed
from tests.conftest import Databases
from tests.statement.desk import ANA, START, Story, record_of
from tests.system import running_system

pytestmark = pytest.mark.anyio


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def seen(version: int, status: str, *, on_log: bool = True) -> SeenEvent:
    place = (3, version * 2, at(version)) if on_log else (None, None, None)
    return SeenEvent(version, version, f"codebank.payment.{status}", status, at(version), *place)


def sides_of(version: int, events: list[SeenEvent], **changes: Any) -> PaymentSides:
    payment = {
        "payment_id": PAYMENT, "status": "contested", "decline_code": None, "amount_minor": 1000, "currency": "BRL",
        "merchant_name": "Loja", "card_masked": "•••• 0001", "created_at": at(1), "updated_at": at(version),
        "version": version,
    }  # fmt: skip
    line = {"sequence": 2, "first_sequence": 1, "projected_at": at(2)}
    values: dict[str, Any] = {
        "order": None, "payment": payment, "events": events, "line": line, "put_aside": {}, "indexed": None,
        "has_search": False, "silent": frozenset(),
    }  # fmt: skip
    return PaymentSides(**(values | changes))


def standing(stages: tuple[Stage, ...], name: str) -> list[Standing]:
    return [stage.standing for stage in stages if stage.name == name]


def test_every_change_has_its_stages_and_its_own_state() -> None:
    events = [seen(1, "approved"), seen(2, "captured"), seen(3, "refunded"), seen(4, "contested", on_log=False)]

    journey = journey_of(sides_of(4, events))

    assert journey is not None
    assert [stage.name for stage in journey.stages] == ["bank", "event", "log", "line"] * 4
    assert [stage.detail for stage in journey.stages if stage.name == "bank"] == [
        "approved", "captured", "refunded", "contested",
    ]  # fmt: skip
    assert standing(journey.stages, "log") == [Standing.DONE] * 3 + [Standing.WAITING]
    assert standing(journey.stages, "line") == [Standing.DONE] * 2 + [Standing.WAITING] * 2
    assert not journey.is_complete


def test_a_change_whose_event_was_not_found_waits_in_its_place() -> None:
    journey = journey_of(sides_of(4, [seen(1, "approved"), seen(4, "contested")], line={
        "sequence": 4, "first_sequence": 1, "projected_at": at(2),
    }))  # fmt: skip

    assert journey is not None
    assert standing(journey.stages, "event") == [Standing.DONE, Standing.WAITING, Standing.WAITING, Standing.DONE]
    assert [stage.at for stage in journey.stages if stage.name == "bank"] == [at(1), None, None, at(4)]


def test_a_change_that_nobody_has_told_yet_waits_at_the_end() -> None:
    journey = journey_of(sides_of(4, [seen(1, "approved"), seen(2, "captured")]))

    assert journey is not None
    assert standing(journey.stages, "event") == [Standing.DONE] * 2 + [Standing.WAITING] * 2
    assert [stage.at for stage in journey.stages if stage.name == "bank"] == [at(1), at(2), None, at(4)]


def test_a_decline_that_nobody_here_can_name_is_still_a_refusal() -> None:
    sides = sides_of(1, [])
    assert sides.payment is not None
    refused = dict(sides.payment) | {"status": "deferred", "decline_code": "moon_phase"}

    journey = journey_of(sides_of(1, [], payment=refused))

    assert journey is not None
    assert (journey.stages[0].standing, journey.stages[0].detail) == (Standing.REFUSED, "moon_phase")


@pytest.fixture
async def log(settings: Settings) -> AsyncIterator[EventLog]:
    async with open_log(settings, "audit") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codebank.audit.control.event_finder._PIECE", 2)


async def put_on_log(log: EventLog, databases: Databases, times: int, among: int) -> list[datetime]:
    """Put a payment's changes on the log with as many events of others behind each; give when each was made."""
    events = changed(times)
    writer = await log.open_writer(PAYMENTS_TOPIC)
    for event in events:
        others = Story(ANA).opened().events * among
        await writer.append([record_of(one) for one in (event, *others)])
    # The log's clock goes with the bank's.
    await hurt(
        databases.dsn("log", "postgres"),
        "update record set appended_at = last.at from (select partition, \"offset\", max((headers ->> 'ce_time')"
        '::timestamptz) over (partition by partition order by "offset") as at from record) last'
        ' where (record.partition, record."offset") = (last.partition, last."offset")',
    )
    return [event.occurred_at for event in events]


async def test_each_change_is_found_near_its_moment(log: EventLog, databases: Databases) -> None:
    moments = await put_on_log(log, databases, 7, among=30)

    found = await EventFinder(log).find(ANA, PAYMENT, moments, 7, waiting=0)

    assert [(event.version, event.occurred_at) for event in found] == list(enumerate(moments, start=1))


async def test_changes_of_one_moment_are_all_found(log: EventLog, databases: Databases) -> None:
    moments = await put_on_log(log, databases, 4, among=0)

    found = await EventFinder(log).find(ANA, PAYMENT, moments[:1], 3, waiting=0)

    assert [event.version for event in found][:3] == [1, 2, 3]


async def test_what_is_found_is_remembered(log: EventLog, databases: Databases) -> None:
    moments = await put_on_log(log, databases, 3, among=5)
    finder = EventFinder(log)
    first = await finder.find(ANA, PAYMENT, moments, 3, waiting=0)
    await hurt(databases.dsn("log", "postgres"), "delete from record")

    assert await finder.find(ANA, PAYMENT, moments, 3, waiting=0) == first


async def test_trap_c08_an_event_shipped_after_the_clock_was_set_back_is_found(
    log: EventLog, databases: Databases
) -> None:
    moments = await put_on_log(log, databases, 2, among=6)
    # The bank decided just before its clock was set back by a day; everything was shipped after that.
    await hurt(databases.dsn("log", "postgres"), "update record set appended_at = appended_at - interval '1 day'")

    found = await EventFinder(log).find(ANA, PAYMENT, moments, 2, waiting=0)

    assert [event.version for event in found] == [1, 2]


async def test_a_payment_that_changed_four_times_is_followed_through_all_of_it(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector", "audit") as system:
        order = await buy(system)
        await system.proven()
        await system.stop("projector")
        await change_by_hand(databases, order["payment_id"], 4)
        await hurt(
            databases.dsn("statement", "postgres"),
            'insert into dead_letter (topic, partition, "offset", reason, key, value, headers)'
            " select topic, partition, next_offset + 359, 'no such type', '', '', '{}' from position p"
            f" where next_offset > 0 and partition = {partition_of_account(await account_of(databases, order))}",
        )
        async with control_room(system) as browser:
            journey = (await browser.get(f"/api/payments/{order['payment_id']}")).json()
            page = await browser.get(f"/payments/{order['payment_id']}")

    assert page.status_code == 200
    assert [stage["name"] for stage in journey["stages"]] == ["order", *["bank", "event", "log", "line"] * 4]
    assert [stage["sequence"] for stage in journey["stages"] if stage["name"] == "event"] == [
        journey["stages"][2]["sequence"] + number for number in range(4)
    ]
    assert {stage["standing"] for stage in journey["stages"] if stage["name"] in ("bank", "event", "log")} == {"done"}
    assert [stage["standing"] for stage in journey["stages"] if stage["name"] == "line"] == [
        "done", "waiting", "waiting", "failed",
    ]  # fmt: skip
    assert "no such type" in page.text


async def account_of(databases: Databases, order: dict) -> UUID:
    bank = await databases.connect("bank")
    account_id: UUID = await bank.fetchval("select account_id from payment where payment_id = $1", order["payment_id"])
    await bank.close()
    return account_id


async def change_by_hand(databases: Databases, payment_id: str, version: int) -> None:
    """Give a payment more versions, each with its entry and its event on the log, as a bank of tomorrow would."""
    await hurt(
        databases.dsn("bank", "postgres"),
        "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,"
        " currency, payment_id, created_at, hash, kind) select account_id, 1000 + number, 'payable', gen_random_uuid(),"
        " 'receivable', account_id, 1, currency, payment_id, created_at + number * interval '1 minute',"
        " decode(repeat('00', 32), 'hex'), 'refund' from payment, generate_series(1, 3) as number"
        f" where payment_id = '{payment_id}';"
        f"update payment set version = {version}, captured_minor = amount_minor, refunded_minor = 3,"
        f" updated_at = created_at + interval '3 minutes' where payment_id = '{payment_id}'",
    )
    # Other events come every half second, and one change a minute.
    await hurt(
        databases.dsn("log", "postgres"),
        'insert into record (topic, partition, "offset", key, value, headers, appended_at)'
        " select topic, partition, \"offset\" + i, case i % 120 when 0 then key else 'other' end,"
        " convert_to(jsonb_set(jsonb_set(jsonb_set(jsonb_set(v, '{sequence}', to_jsonb((v ->> 'sequence')::int + n)),"
        " '{event_id}', to_jsonb(id)), '{payment,version}', to_jsonb(n + 1)), '{occurred_at}',"
        " to_jsonb(at + n * interval '1 minute'))::text, 'utf8'), headers || jsonb_build_object('ce_id', id),"
        " at + i * interval '0.5 second' from (select *, i / 120 as n, (v ->> 'occurred_at')::timestamptz as at"
        " from (select *, convert_from(value, 'utf8')::jsonb as v, gen_random_uuid()::text as id"
        f" from record, generate_series(1, 360) as i where convert_from(value, 'utf8') like '%{payment_id}%') found"
        ") changes; update partition_end set next_offset = next_offset + 360",
    )


async def test_an_unknown_id_has_no_journey(log: EventLog) -> None:
    assert await EventFinder(log).find(ANA, uuid4(), [START], 1, waiting=0) == []
