"""Events: every type has one shape, and no card number has a place in any."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec.structs import fields

from codebank.events import (
    EVENT_TYPES,
    PAYMENT_EVENT_TYPES,
    AccountState,
    AccountStatus,
    CardEvent,
    CardState,
    Event,
    PaymentEvent,
    PaymentState,
    PaymentStatus,
)


def test_every_payment_status_has_an_event_of_its_own() -> None:
    assert set(PAYMENT_EVENT_TYPES) == set(PaymentStatus)
    assert len(set(PAYMENT_EVENT_TYPES.values())) == len(PaymentStatus)
    assert {EVENT_TYPES[name] for name in PAYMENT_EVENT_TYPES.values()} == {PaymentEvent}


@pytest.mark.parametrize("shape", sorted(set(EVENT_TYPES.values()), key=str))
def test_every_event_tells_its_account_its_number_and_the_account_after_it(shape: type[Event]) -> None:
    names = {field.name for field in fields(shape)}

    assert {"event_id", "type", "account_id", "sequence", "occurred_at", "account"} <= names


@pytest.mark.parametrize("shape", [PaymentEvent, CardEvent, PaymentState, CardState, AccountState])
def test_trap_a24_no_event_has_a_place_for_a_card_number_or_a_cvv(shape: type) -> None:
    names = {field.name for field in fields(shape)}

    assert not names & {"number", "pan", "cvv", "card_number", "fingerprint", "number_sealed", "token"}


def test_an_event_cannot_be_changed() -> None:
    state = AccountState(holder_name="x", status=AccountStatus.OPEN, currency="BRL", limit_minor=10, used_minor=4)
    event = Event(
        event_id=UUID(int=1),
        type="x",
        account_id=UUID(int=2),
        sequence=1,
        occurred_at=datetime(2026, 11, 23, tzinfo=UTC),
        account=state,
    )

    with pytest.raises(AttributeError):
        event.sequence = 2  # type: ignore[misc]
    assert state.available_minor == 6
