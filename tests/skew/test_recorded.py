"""What the release before said, against this one; and what this one says, against the release before's readers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from codebank.bank.test_cards import TEST_CARDS, Behaviour
from codebank.eventlog.log import Record, partition_of
from codebank.eventlog.outbox import headers_of
from codebank.events import EVENT_TYPES, PAYMENTS_TOPIC, Event, PaymentEvent
from codebank.runtime.postgres.pool import connect
from codebank.statement.applying import apply_records
from codebank.v1 import bank_pb2
from codebank.wire import decode_event
from tests.conftest import TEST_MERCHANT_KEY, TEST_OPERATOR_KEY, BankServer, Databases
from tests.release import code_before, run_code
from tests.skew import Call, names_in, recorded_calls, recorded_events, replaced
from tests.skew.caller import Caller, calling

pytestmark = pytest.mark.anyio
MESSAGES, CALLS = recorded_calls()
EVENTS = recorded_events()
KEYS = {"merchant": TEST_MERCHANT_KEY, "operator": TEST_OPERATOR_KEY}
CONNECTOR = Path(__file__).resolve().parents[2] / "deploy" / "connect" / "connectors" / "payments.json"
#: What each bank makes by itself: the first time it is learned, from then on it must stay the same.
MADE = {"paymentId", "cardId", "accountId", "token", "masked", "number"}
#: What depends on the day, and what is drawn anew.
FREE = {"createdAt", "updatedAt", "expiryMonth", "expiryYear", "cvv"}


class Repeated:
    """Makes recorded calls again at another bank, whose ids are others."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        #: What the release before made → what this bank made in its place.
        self.names: dict[str, str] = {}
        #: Number of a card that was issued → the card as this bank issued it.
        self.cards: dict[str, dict[str, Any]] = {}

    async def make(self, call: Call) -> Call:
        """Make a call, and tell what this bank answers."""
        request = replaced(call.request, lambda text: self.names.get(text, text))
        number = call.request.get("cardData", {}).get("number")
        if number in self.cards:
            request["cardData"] = self.cards[number]
        made = await self.caller.call(call.rpc, call.caller, request)
        self._learn(call.answer, made.answer)
        if (made.answer or {}).get("number"):
            self._keep_card((call.answer or {})["number"], made.answer or {})
        return made

    def expected(self, call: Call) -> Any:
        """Give the answer of the release before with this bank's names for things."""
        return without(replaced(call.answer, lambda text: self.names.get(text, text)), FREE)

    def _learn(self, recorded: Any, made: Any) -> None:
        if isinstance(recorded, Mapping) and isinstance(made, Mapping):
            for name, value in recorded.items():
                if name in MADE and isinstance(value, str) and isinstance(made.get(name), str):
                    self.names.setdefault(value, made[name])
                self._learn(value, made.get(name))
        if isinstance(recorded, list) and isinstance(made, list):
            for before, now in zip(recorded, made, strict=False):
                self._learn(before, now)

    def _keep_card(self, number: str, issued: Mapping[str, Any]) -> None:
        card = issued["card"]
        expiry = {"expiryMonth": card["expiryMonth"], "expiryYear": card["expiryYear"]}
        self.cards[number] = {"number": issued["number"], "cvv": issued["cvv"], **expiry}


def without(document: Any, names: set[str]) -> Any:
    """Give a document in which these fields only tell whether they are there."""
    if isinstance(document, Mapping):
        return {name: "there" if name in names else without(value, names) for name, value in document.items()}
    return [without(value, names) for value in document] if isinstance(document, list) else document


async def test_this_release_answers_every_recorded_call_as_the_release_before_did(bank_server: BankServer) -> None:
    assert {call.rpc for call in CALLS} == names_in(MESSAGES.descriptor)

    async with calling(bank_server.address, MESSAGES, KEYS) as caller:
        bank = Repeated(caller)
        for call in CALLS:
            made = await bank.make(call)
            assert made.refusal == call.refusal, call.request
            assert without(made.answer, FREE) == bank.expected(call), call.request


def test_this_release_reads_every_recorded_request_and_answer_whole() -> None:
    for call in CALLS:
        for kind, document in (("Request", call.request), ("Response", call.answer)):
            if document is not None:
                name = f"{call.rpc}{kind}"
                content = MESSAGES.write(name, document)
                read: Message = getattr(bank_pb2, name).FromString(content)
                assert json_format.MessageToDict(read) == MESSAGES.read(name, content)


def recorded(event: Mapping[str, Any]) -> Event:
    return decode_event(event["headers"], event["value"].encode(), event["key"].encode())


def test_every_type_of_event_was_recorded() -> None:
    assert {event["headers"]["ce_type"] for event in EVENTS} == set(EVENT_TYPES)


def test_this_release_reads_recorded_events_and_says_what_they_meant() -> None:
    events = [recorded(event) for event in EVENTS]

    assert [event.sequence for event in events] == list(range(1, len(EVENTS) + 1))
    assert all(event.cause is None for event in events)
    payments = [event.payment for event in events if isinstance(event, PaymentEvent)]
    assert {(one.status, one.version, one.captured_minor - one.amount_minor) for one in payments} == {
        ("approved", 1, 0),
        ("refunded", 2, 0),
        *(("declined", 1, -one.amount_minor) for one in payments if one.status == "declined"),
    }


async def test_recorded_events_become_the_lines_that_they_tell_of(databases: Databases) -> None:
    records = [
        Record(
            topic=PAYMENTS_TOPIC,
            partition=partition_of(event["key"].encode()),
            offset=offset,
            follows=offset,
            key=event["key"].encode(),
            value=event["value"].encode(),
            headers=event["headers"],
            appended_at=datetime.now(UTC),
        )
        for offset, event in enumerate(EVENTS)
    ]
    connection = await connect(databases.dsn("statement"))
    async with connection.transaction():
        await apply_records(connection, records)
    lines = await connection.fetch("select payment_id, status, decline_code, refunded_minor from line order by 1")
    account = await connection.fetchrow("select sequence, used_minor, limit_minor from account")
    letters = await connection.fetchval("select count(*) from dead_letter")
    await connection.close()

    told = {
        event.payment.payment_id: event.payment for event in map(recorded, EVENTS) if isinstance(event, PaymentEvent)
    }
    assert {line["payment_id"]: tuple(line)[1:] for line in lines} == {
        payment_id: (one.status, one.decline_code, one.refunded_minor) for payment_id, one in told.items()
    }
    assert account is not None
    assert tuple(account) == (len(EVENTS), recorded(EVENTS[-1]).account.used_minor, 50_000)
    assert letters == 0


async def new_events(server: BankServer) -> list[dict[str, Any]]:
    """Let this release do all that was recorded, and give its events as they would be on the log."""
    async with calling(server.address, MESSAGES, KEYS) as caller:
        bank = Repeated(caller)
        for call in CALLS:
            await bank.make(call)
    connection = await asyncpg.connect(server.settings.database_url("bank"))
    rows = await connection.fetch("select * from outbox order by account_id, sequence")
    await connection.close()
    return [{"key": str(row["account_id"]), "headers": headers_of(row), "value": row["value"].decode()} for row in rows]


_READ_BEFORE = """
import json, sys
import msgspec
from codebank.wire import decode_event, event_value
for event in json.load(sys.stdin):
    print(event_value(decode_event(event["headers"], event["value"].encode())).decode())
"""


async def test_the_release_before_reads_every_event_of_this_one(bank_server: BankServer) -> None:
    """Strictly: its enumerations were closed, so a value that it has no name for would be a dead letter to it."""
    events = await new_events(bank_server)

    read = [json.loads(line) for line in run_code(code_before(), _READ_BEFORE, json.dumps(events)).splitlines()]

    assert {event["headers"]["ce_type"] for event in events} == set(EVENT_TYPES)
    assert [one["sequence"] for one in read] == [int(event["headers"]["ce_sequence"]) for event in events]
    for event, one in zip(events, read, strict=True):
        assert one == known_before(json.loads(event["value"]), one)


def known_before(said: Any, read: Any) -> Any:
    """Leave out of what this release said whatever the release before did not see."""
    if isinstance(said, Mapping) and isinstance(read, Mapping):
        return {name: known_before(value, read[name]) for name, value in said.items() if name in read}
    return said


async def test_an_account_has_the_events_that_it_had_before(bank_server: BankServer) -> None:
    events = [json.loads(event["value"]) for event in await new_events(bank_server)]
    own = [event for event in events if event["account"]["holder_name"] == "Rui Dias"]
    before = [json.loads(event["value"]) for event in EVENTS]

    drawn = {"event_id", "account_id", "occurred_at", "created_at", "updated_at", "merchant_id", "payment_id"}
    drawn |= {"card_id", "card_masked", "expiry_month", "expiry_year"}
    assert [without(known_before(now, then), drawn) for now, then in zip(own, before, strict=True)] == [
        without(event, drawn) for event in before
    ]


async def test_the_search_index_finds_every_field_that_it_picks(bank_server: BankServer) -> None:
    picked = json.loads(CONNECTOR.read_text())["config"]["transforms.pick.include"].split(",")
    now = [json.loads(event["value"]) for event in await new_events(bank_server)]

    for event in [*now, *(json.loads(event["value"]) for event in EVENTS)]:
        if "payment" in event:
            flat = {*event, *(f"payment.{name}" for name in event["payment"])}
            # The release before told less; what it did not tell is missing there, and nothing else is.
            assert set(picked) - flat <= {"payment.captured_minor", "payment.version"}


_CALL_BEFORE = """
import asyncio, json, sys
from types import SimpleNamespace
from uuid import UUID
from codebank.checkout.bank import BankClient
from codebank.checkout.order import CardInput
from codebank.money import Money
from codebank.runtime.telemetry import Telemetry

async def main(given):
    client = BankClient(given["address"], given["key"], 10, Telemetry())
    for number, card in enumerate(given["cards"], start=1):
        order = SimpleNamespace(order_id=UUID(int=number), total=Money(1290, "BRL"), parcelas=1)
        answers = [
            await client.authorize(order, CardInput(**card), "coffee"),
            await client.find(order.order_id),
            await client.cancel(order.order_id),
            await client.find(order.order_id),
        ]
        print(json.dumps([said(answer) for answer in answers]))
    unseen = UUID(int=999)
    answers = [await client.find(unseen), await client.cancel(unseen), await client.find(unseen)]
    print(json.dumps([said(answer) for answer in answers]))
    await client.close()

def said(answer):
    return [type(answer).__name__, getattr(answer, "code", None), getattr(answer, "advice", None)]

asyncio.run(main(json.load(sys.stdin)))
"""


async def test_the_shop_of_the_release_before_understands_every_answer_of_this_bank(bank_server: BankServer) -> None:
    cards = [card for card in TEST_CARDS if card.behaviour is Behaviour.PLAIN]
    given = {"address": bank_server.address, "key": TEST_MERCHANT_KEY, "cards": [card.body for card in cards]}

    printed = await asyncio.to_thread(run_code, code_before(), _CALL_BEFORE, json.dumps(given))
    told = [json.loads(line) for line in printed.splitlines()]

    assert told[-1] == [["NoneType", None, None], ["Cancelled", None, None], ["NoneType", None, None]]
    for card, (charged, found, cancelled, found_after) in zip(cards, told[:-1], strict=True):
        assert charged == found
        if card.outcome == "approved":
            assert [one[0] for one in (charged, cancelled, found_after)] == ["Approved", "Cancelled", "Cancelled"]
        else:
            assert charged[:2] == ["Declined", card.outcome]
            assert charged[2] in {"fix_the_data", "try_again_later", "do_not_try_again"}
            assert charged == cancelled == found_after
