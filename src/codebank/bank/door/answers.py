"""Writes the bank's answers as messages of codebank.v1."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from codebank.bank.door.decline import advice_of, response_code_of
from codebank.bank.operation import CancelAnswer, CancelOutcome, CardAnswer, PaymentAnswer
from codebank.events import Advice, CardStatus, DeclineCode, PaymentState, PaymentStatus
from codebank.v1 import bank_pb2 as pb

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATUS: Final[Mapping[str, Any]] = {
    status: pb.PaymentStatus.Value(f"PAYMENT_STATUS_{status.name}") for status in PaymentStatus
}
_DECLINE: Final[Mapping[str, Any]] = {code: pb.DeclineCode.Value(f"DECLINE_CODE_{code.name}") for code in DeclineCode}
_CANCEL_OUTCOMES: Final = {
    CancelOutcome.KEY_CLOSED: pb.CancelResponse.OUTCOME_KEY_CLOSED,
    CancelOutcome.REFUNDED: pb.CancelResponse.OUTCOME_REFUNDED,
    CancelOutcome.NOTHING_CHARGED: pb.CancelResponse.OUTCOME_NOTHING_CHARGED,
}
_ADVICE: Final = {advice: pb.Advice.Value(f"ADVICE_{advice.name}") for advice in Advice}
_CARD_STATUS: Final[Mapping[str, Any]] = {
    status: pb.CardStatus.Value(f"CARD_STATUS_{status.name}") for status in CardStatus
}


def authorize_response(answer: PaymentAnswer) -> pb.AuthorizeResponse:
    """Write the answer to a charge."""
    response = pb.AuthorizeResponse()
    fill_authorize_response(response, answer)
    return response


def fill_authorize_response(response: pb.AuthorizeResponse, answer: PaymentAnswer) -> None:
    """Write the answer to a charge in its place, such as among those of a stream's message."""
    response.replayed = answer.replayed
    _fill(response.payment, answer.payment, answer.key_name)
    if not answer.is_stored:
        response.payment.ClearField("payment_id")


def payment_message(payment: PaymentState, key: str) -> pb.Payment:
    """Write a payment."""
    message = pb.Payment()
    _fill(message, payment, key)
    return message


def _fill(message: pb.Payment, payment: PaymentState, key: str) -> None:
    """Write a payment in its place, field by field: messages made by name and copied in cost four times as much."""
    code = payment.decline_code
    message.payment_id = str(payment.payment_id)
    # What a newer release wrote has no number here: callers take it for unknown and ask again.
    message.status = _STATUS.get(payment.status, pb.PAYMENT_STATUS_UNSPECIFIED)
    if code:
        message.decline_code = _DECLINE.get(code, pb.DECLINE_CODE_UNSPECIFIED)
        message.advice = _ADVICE[advice_of(code)]
    message.response_code = response_code_of(code)
    _fill_money(message.amount, payment.amount_minor, payment.currency)
    _fill_money(message.refunded, payment.refunded_minor, payment.currency)
    _fill_money(message.captured, payment.captured_minor, payment.currency)
    message.card_masked = payment.card_masked
    message.card_brand = payment.card_brand
    message.description = payment.description
    message.parcelas = payment.parcelas
    message.idempotency_key = key
    _fill_time(message.created_at, payment.created_at)
    _fill_time(message.updated_at, payment.updated_at)
    message.version = payment.version


def cancel_response(answer: CancelAnswer) -> pb.CancelResponse:
    """Write the answer to a Cancel."""
    message = payment_message(answer.payment, answer.key_name) if answer.payment else None
    return pb.CancelResponse(outcome=_CANCEL_OUTCOMES[answer.outcome], payment=message)


def card_message(view: CardAnswer) -> pb.Card:
    """Write a card with its account."""
    account, card = view.account, view.card
    return pb.Card(
        card_id=str(card.card_id),
        account_id=str(card.account_id),
        token=card.token,
        masked=card.masked,
        brand=card.brand,
        expiry_month=card.expiry_month,
        expiry_year=card.expiry_year,
        status=_CARD_STATUS.get(card.status, pb.CARD_STATUS_UNSPECIFIED),
        holder_name=account.holder_name,
        limit=pb.Money(amount_minor=account.limit_minor, currency=account.currency),
        used=pb.Money(amount_minor=account.used_minor, currency=account.currency),
    )


def _fill_money(money: pb.Money, amount_minor: int, currency: str) -> None:
    money.amount_minor = amount_minor
    money.currency = currency


def _fill_time(timestamp: Timestamp, at: datetime) -> None:
    # By hand: `FromDatetime` costs as much as the rest of the message.
    since = at - _EPOCH
    timestamp.seconds = since.days * 86_400 + since.seconds
    timestamp.nanos = since.microseconds * 1000
