"""First answers: what can be derived is not kept, and what is given again is what was told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from codebank.bank.first_answer import pack, payment_as_answered
from codebank.bank.operation import PaymentAnswer
from codebank.events import PaymentState
from tests.bank.payment.test_authorize import charged

LATER = timedelta(seconds=5)


def first() -> PaymentState:
    answer = charged().answer
    assert isinstance(answer, PaymentAnswer)
    return answer.payment


def changed(payment: PaymentState) -> PaymentState:
    """Give a payment as it may be later: all of it given back, twice changed."""
    return replace(
        payment,
        status="refunded",
        refunded_minor=payment.amount_minor,
        version=payment.version + 2,
        updated_at=payment.updated_at + LATER,
    )


DECLINED = {"status": "declined", "decline_code": "limit_exceeded", "captured_minor": 0}


@pytest.mark.parametrize("what", [{}, DECLINED], ids=["charged", "declined"])
def test_a_plain_charge_needs_no_packed_answer(what: dict[str, object]) -> None:
    told = replace(first(), **what)

    assert pack(PaymentAnswer(told, "key")) is None
    assert payment_as_answered(changed(told), None) == told


@pytest.mark.parametrize(
    "what",
    [
        {"captured_minor": 0},
        {"captured_minor": 1},
        {"status": "held", "captured_minor": 0},
        {"refunded_minor": 1},
        {"version": 2},
        {"updated_at": first().created_at + LATER},
        DECLINED | {"status": "approved"},
        DECLINED | {"captured_minor": 1},
    ],
    ids=str,
)
def test_any_other_answer_is_kept_as_it_was_told(what: dict[str, object]) -> None:
    told = replace(first(), **what)

    packed = pack(PaymentAnswer(told, "key"))

    assert packed is not None
    assert payment_as_answered(changed(told), packed) == told
