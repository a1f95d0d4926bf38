"""First answers: kept beside their keys, so that a repeat is told what was told first, whatever happened since. Pure.

Packed is only what may change later and cannot be derived; the rest is read from the rows. A packed answer begins with
the number of its form, so that a later release still reads what this one kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from codebank.bank.operation import Answer, CardAnswer, PaymentAnswer
from codebank.bank.state import Account, Card
from codebank.events import PaymentState, PaymentStatus

_PAYMENT: Final = 1
_CARD: Final = 2

_encode: Final = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode: Final = msgspec.msgpack.Decoder().decode


def pack(answer: Answer) -> bytes | None:
    """Keep of an answer what may change later; None where nothing may."""
    if isinstance(answer, PaymentAnswer):
        payment = answer.payment
        if _is_plain(payment):
            return None
        return _encode(
            (
                _PAYMENT,
                payment.status,
                payment.decline_code,
                payment.captured_minor,
                payment.refunded_minor,
                payment.version,
                payment.updated_at,
            )
        )
    if isinstance(answer, CardAnswer):
        account, card = answer.account, answer.card
        return _encode(
            (_CARD, card.status, account.status, account.holder_name, account.limit_minor, account.used_minor)
        )
    return None


def _is_plain(payment: PaymentState) -> bool:
    """Whether a payment is as `payment_as_answered` derives it: charged at once or declined, and never changed."""
    charged_minor = 0 if payment.decline_code else payment.amount_minor
    status = PaymentStatus.DECLINED if payment.decline_code else PaymentStatus.APPROVED
    return (
        payment.version == 1
        and payment.status == status
        and payment.captured_minor == charged_minor
        and payment.refunded_minor == 0
        and payment.updated_at == payment.created_at
    )


def payment_as_answered(payment: PaymentState, packed: bytes | None) -> PaymentState:
    """Give a payment as it was told first; without a packed answer, charged at once or declined."""
    if packed is None:
        status = PaymentStatus.DECLINED if payment.decline_code else PaymentStatus.APPROVED
        captured_minor = 0 if payment.decline_code else payment.amount_minor
        return replace(
            payment,
            status=status,
            captured_minor=captured_minor,
            refunded_minor=0,
            version=1,
            updated_at=payment.created_at,
        )
    form, *values = _decode(packed)
    assert form == _PAYMENT
    status, code, captured_minor, refunded_minor, version, updated_at = values
    return replace(
        payment,
        status=status,
        decline_code=code,
        captured_minor=captured_minor,
        refunded_minor=refunded_minor,
        version=version,
        updated_at=_time(updated_at),
    )


def card_as_answered(account: Account, card: Card, packed: bytes | None) -> CardAnswer:
    """Give a card as it was told first; without a packed answer, as it is now."""
    if packed is None:
        return CardAnswer(account, card, replayed=True)
    form, *values = _decode(packed)
    assert form == _CARD
    card_status, account_status, holder_name, limit_minor, used_minor = values
    account = replace(
        account, status=account_status, holder_name=holder_name, limit_minor=limit_minor, used_minor=used_minor
    )
    return CardAnswer(account, replace(card, status=card_status), replayed=True)


def _time(value: Any) -> datetime:
    assert isinstance(value, datetime)
    return value.astimezone(UTC)
