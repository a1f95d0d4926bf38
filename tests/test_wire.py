"""The wire: events come back as they were, whatever is in them; what is no event of ours says why."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codebank.events import (
    ACCOUNT_OPENED,
    EVENT_TYPES,
    PAYMENT_EVENT_TYPES,
    AccountEvent,
    AccountState,
    AccountStatus,
    CardEvent,
    CardState,
    CardStatus,
    DeclineCode,
    Event,
    PaymentEvent,
    PaymentState,
    PaymentStatus,
    key_of,
)
from codebank.money import AMOUNT_MINOR_MAX
from codebank.wire import MalformedEvent, decode_event, encode_event, event_headers, new_id, utc_now

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
minors = st.integers(0, AMOUNT_MINOR_MAX)
times = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
accounts = st.builds(
    AccountState,
    holder_name=texts,
    status=st.sampled_from(AccountStatus),
    currency=st.sampled_from(["BRL", "USD"]),
    limit_minor=minors,
    used_minor=minors,
)
payments = st.builds(
    PaymentState,
    payment_id=st.uuids(),
    status=st.sampled_from(PaymentStatus),
    decline_code=st.none() | st.sampled_from(DeclineCode),
    amount_minor=minors,
    currency=st.just("BRL"),
    refunded_minor=minors,
    parcelas=st.integers(1, 12),
    merchant_id=st.uuids(),
    merchant_name=texts,
    merchant_category=st.just("5311"),
    description=texts,
    card_masked=st.just("•••• 1234"),
    card_brand=st.just("visa"),
    card_id=st.none() | st.uuids(),
    created_at=times,
    updated_at=times,
    captured_minor=minors,
    version=st.integers(1, 100),
)
cards = st.builds(
    CardState,
    card_id=st.uuids(),
    card_masked=st.just("•••• 1234"),
    card_brand=st.just("visa"),
    expiry_month=st.integers(1, 12),
    expiry_year=st.integers(2000, 2099),
    status=st.sampled_from(CardStatus),
)


@st.composite
def events(draw: st.DrawFn) -> Event:
    """Make any event."""
    name = draw(st.sampled_from(sorted(EVENT_TYPES)))
    shape = EVENT_TYPES[name]
    common: dict[str, Any] = {
        "event_id": draw(st.uuids()),
        "type": name,
        "account_id": draw(st.uuids()),
        "sequence": draw(st.integers(1, 2**62)),
        "occurred_at": draw(times),
        "account": draw(accounts),
    }
    if shape is PaymentEvent:
        return PaymentEvent(**common, payment=draw(payments))
    return CardEvent(**common, card=draw(cards)) if shape is CardEvent else AccountEvent(**common)


def opened(**changes: Any) -> AccountEvent:
    state = AccountState(holder_name="Ana", status=AccountStatus.OPEN, currency="BRL", limit_minor=1, used_minor=0)
    values: dict[str, Any] = {
        "event_id": UUID(int=1),
        "type": ACCOUNT_OPENED,
        "account_id": UUID(int=2),
        "sequence": 1,
        "occurred_at": datetime(2026, 11, 23, 15, 4, 5, 678, tzinfo=UTC),
        "account": state,
    }
    return AccountEvent(**{**values, **changes})


@given(events())
@settings(max_examples=150, deadline=None)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    value, headers = encode_event(event)

    assert decode_event(headers, value) == event


def test_an_event_is_json_in_cloudevents_binary_form() -> None:
    value, headers = encode_event(opened())

    assert headers == {
        "ce_specversion": "1.0",
        "ce_id": "00000000-0000-0000-0000-000000000001",
        "ce_source": "/codebank/bank",
        "ce_type": "codebank.account.opened",
        "ce_subject": "00000000-0000-0000-0000-000000000002",
        "ce_time": "2026-11-23T15:04:05.000678+00:00",
        "ce_sequence": "1",
        "content-type": "application/json",
    }
    assert json.loads(value)["account"]["limit_minor"] == 1
    assert headers == event_headers(UUID(int=1), ACCOUNT_OPENED, UUID(int=2), opened().sequence, opened().occurred_at)


@pytest.mark.parametrize(
    "value",
    [b"", b"not json", b"\xff\xfe", b"[]", b"{}", b'{"event_id": 1}', b"null", b'"text"'],
)
def test_trap_b21_a_value_that_does_not_fit_says_so(value: bytes) -> None:
    _, headers = encode_event(opened())

    with pytest.raises(MalformedEvent, match="does not fit"):
        decode_event(headers, value)


@pytest.mark.parametrize("headers", [{}, {"ce_type": "another.unheard"}, {"ce_type": "x" * 500}])
def test_trap_b21_a_record_of_another_program_says_so(headers: dict[str, str]) -> None:
    value, _ = encode_event(opened())

    with pytest.raises(MalformedEvent, match="unknown event type") as caught:
        decode_event(headers, value)

    assert len(str(caught.value)) < 120


def test_headers_and_value_must_tell_of_the_same_event() -> None:
    value, headers = encode_event(opened())

    for wrong in ({"ce_id": str(UUID(int=9))}, {"ce_id": ""}):
        with pytest.raises(MalformedEvent, match="different events"):
            decode_event({**headers, **wrong}, value)


@pytest.mark.parametrize("sequence", [0, -1])
def test_a_sequence_begins_at_one(sequence: int) -> None:
    value, headers = encode_event(opened(sequence=sequence))

    with pytest.raises(MalformedEvent, match="not a number of an event"):
        decode_event(headers, value)


@pytest.mark.parametrize("wrong", [1.5, "1", 1e30, None])
def test_trap_a25_an_amount_that_is_no_whole_number_does_not_fit(wrong: Any) -> None:
    value, headers = encode_event(opened())
    data = json.loads(value)
    data["account"]["limit_minor"] = wrong

    with pytest.raises(MalformedEvent, match="does not fit"):
        decode_event(headers, json.dumps(data).encode())


def test_every_payment_status_travels() -> None:
    assert set(PAYMENT_EVENT_TYPES.values()) <= set(EVENT_TYPES)


def test_ids_sort_by_the_time_of_their_making() -> None:
    made = [new_id() for _ in range(1000)]

    assert {made_id.version for made_id in made} == {7}
    assert len(set(made)) == 1000
    assert made == sorted(made)


def test_trap_b24_the_clock_has_a_zone() -> None:
    assert utc_now().tzinfo is UTC


def test_an_event_of_a_type_that_a_newer_bank_made_is_read_as_what_its_name_promises() -> None:
    story = opened(type="codebank.account.frozen")
    value, headers = encode_event(story)

    event = decode_event(headers, value)

    assert (event.type, event.sequence, event.account) == (story.type, story.sequence, story.account)


def test_an_event_under_another_accounts_key_is_refused() -> None:
    value, headers = encode_event(opened())

    assert decode_event(headers, value, key_of(UUID(int=2))) == opened()
    with pytest.raises(MalformedEvent, match="another account's key"):
        decode_event(headers, value, key_of(UUID(int=3)))


def changed(event: Event, **changes: Any) -> tuple[dict[str, str], bytes]:
    """Give an event as another release would send it."""
    value, headers = encode_event(event)
    return headers, json.dumps(json.loads(value) | changes).encode()


def test_trap_c01_what_a_newer_bank_says_otherwise_or_beside_is_read_as_it_came() -> None:
    account = {**json.loads(encode_event(opened())[0])["account"], "status": "frozen", "currency": "XTS", "new": [1]}

    event = decode_event(*changed(opened(), account=account, more={"deep": [None, 1.5]}))

    assert (event.account.status, event.account.currency) == ("frozen", "XTS")


def test_a_newer_payments_event_without_a_payment_still_tells_of_its_account() -> None:
    story = opened(type="codebank.payment.exploded")

    event = decode_event(*changed(story, payment=7))

    assert type(event) is Event
    assert (event.type, event.account) == (story.type, story.account)


FIRST = [("approved", 0, 700, 1), ("declined", 0, 0, 1), ("refunded", 700, 700, 2)]


@pytest.mark.parametrize(("status", "refunded_minor", "captured_minor", "version"), FIRST)
def test_an_event_of_the_first_release_is_told_what_it_meant(
    status: str, refunded_minor: int, captured_minor: int, version: int
) -> None:
    at = "2026-11-20T15:00:00Z"
    payment = {
        "payment_id": str(UUID(int=7)), "status": status, "decline_code": None, "amount_minor": 700, "currency": "BRL",
        "refunded_minor": refunded_minor, "parcelas": 1, "merchant_id": str(UUID(int=8)), "merchant_name": "Loja",
        "merchant_category": "5311", "description": "", "card_masked": "•••• 1234", "card_brand": "visa",
        "card_id": None, "created_at": at, "updated_at": at,
    }  # fmt: skip

    event = decode_event(*changed(opened(type=f"codebank.payment.{status}"), payment=payment))

    assert isinstance(event, PaymentEvent)
    assert (event.payment.captured_minor, event.payment.version) == (captured_minor, version)
