"""What the bank's answers mean to the shop. Enumerations are open: what is not understood is Unknown, never an end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from codebank.checkout.order import Approved, Cancelled, Declined, Outcome, Unknown
from codebank.money import EXPONENTS, Money
from codebank.v1 import bank_pb2 as pb

_CODES: Final[Mapping[int, str]] = {
    number: name.removeprefix("DECLINE_CODE_").lower() for name, number in pb.DeclineCode.items()
}
_ADVICES: Final[Mapping[int, str | None]] = {
    number: name.removeprefix("ADVICE_").lower() for name, number in pb.Advice.items()
} | {pb.ADVICE_UNSPECIFIED: None}


def read_decision(response: pb.AuthorizeResponse | pb.GetPaymentResponse, order_id: UUID) -> Outcome:
    """Read what the bank decided about an order."""
    payment = response.payment
    if not response.HasField("payment"):
        return Unknown("an answer without a payment")
    if not _is_of(payment, order_id):
        return Unknown("an answer about another key")
    match payment.status:
        case pb.PAYMENT_STATUS_APPROVED:
            return _approved(payment)
        case pb.PAYMENT_STATUS_DECLINED:
            return _declined(payment)
        case pb.PAYMENT_STATUS_REFUNDED:
            return Cancelled(_id(payment))
    return Unknown(f"payment status {payment.status}")


def read_cancellation(response: pb.CancelResponse, order_id: UUID) -> Outcome:
    """Read what became of an order that was to be cancelled; only what says that nothing is charged ends it."""
    payment = response.payment
    if not _is_of(payment, order_id):
        return Unknown("an answer about another key")
    match response.outcome:
        case pb.CancelResponse.OUTCOME_KEY_CLOSED | pb.CancelResponse.OUTCOME_REFUNDED:
            return Cancelled(_id(payment))
        case pb.CancelResponse.OUTCOME_NOTHING_CHARGED if payment.status == pb.PAYMENT_STATUS_DECLINED:
            return _declined(payment)
        case pb.CancelResponse.OUTCOME_NOTHING_CHARGED if payment.status == pb.PAYMENT_STATUS_APPROVED:
            return Unknown("nothing charged of an approved payment")
        case pb.CancelResponse.OUTCOME_NOTHING_CHARGED:
            return Cancelled(_id(payment))
    return Unknown(f"outcome {response.outcome} of a cancellation")


def _approved(payment: pb.Payment) -> Outcome:
    payment_id, amount = _id(payment), _amount(payment)
    if payment_id is None:
        return Unknown("an approval without an id")
    if amount is None:
        return Unknown(f"an approval in {payment.amount.currency or 'no currency'}")
    return Approved(payment_id, amount, _decided_at(payment))


def _declined(payment: pb.Payment) -> Declined:
    code, advice = payment.decline_code, payment.advice
    return Declined(
        _id(payment),
        _CODES.get(code, f"code_{code}"),
        _ADVICES.get(advice, f"advice_{advice}"),
        _decided_at(payment),
    )


def _is_of(payment: pb.Payment, order_id: UUID) -> bool:
    """Tell whether a payment is the order's; one that does not name its key is what was asked for."""
    return payment.idempotency_key in ("", str(order_id))


def _id(payment: pb.Payment) -> UUID | None:
    try:
        return UUID(payment.payment_id)
    except ValueError:
        return None


def _amount(payment: pb.Payment) -> Money | None:
    amount = payment.amount
    return Money(amount.amount_minor, amount.currency) if amount.currency in EXPONENTS else None


def _decided_at(payment: pb.Payment) -> datetime | None:
    if not payment.HasField("created_at"):
        return None
    try:
        return payment.created_at.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
