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
    payment = payment_message(answer.payment, answer.key_name)
    if not answer.is_stored:
        payment.ClearField("payment_id")
    return pb.AuthorizeResponse(payment=payment, replayed=answer.replayed)


def payment_message(payment: PaymentState, key: str) -> pb.Payment:
    """Write a payment."""
    code = payment.decline_code
    return pb.Payment(
        payment_id=str(payment.payment_id),
        # What a newer release wrote has no number here: callers take it for unknown and ask again.
        status=_STATUS.get(payment.status, pb.PAYMENT_STATUS_UNSPECIFIED),
        decline_code=_DECLINE.get(code or "", pb.DECLINE_CODE_UNSPECIFIED),
        advice=_ADVICE[advice_of(code)] if code else pb.ADVICE_UNSPECIFIED,
        response_code=response_code_of(code),
        amount=pb.Money(amount_minor=payment.amount_minor, currency=payment.currency),
        refunded=pb.Money(amount_minor=payment.refunded_minor, currency=payment.currency),
        card_masked=payment.card_masked,
        card_brand=payment.card_brand,
        description=payment.description,
        parcelas=payment.parcelas,
        idempotency_key=key,
        created_at=_timestamp(payment.created_at),
        updated_at=_timestamp(payment.updated_at),
        captured=pb.Money(amount_minor=payment.captured_minor, currency=payment.currency),
        version=payment.version,
    )


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


def _timestamp(at: datetime) -> Timestamp:
    # By hand: `FromDatetime` costs as much as the rest of the message.
    since = at - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)
