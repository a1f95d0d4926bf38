"""Cancels a key: gives back what it charged, or makes sure that it never charges. Pure."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from codebank.bank.account.count import counted, hash_of, tell_payment
from codebank.bank.ledger.entry import EntryKind, payment_entry
from codebank.bank.operation import Authorize, Cancel, CancelAnswer, CancelOutcome, Changes, NewId
from codebank.bank.state import State
from codebank.errors import Code, CodebankError
from codebank.events import Cause, PaymentState, PaymentStatus


def decide_cancel(state: State, operation: Cancel, now: datetime, new_id: NewId) -> Changes:
    """Cancel a key; once done, it stays done.

    Raises CodebankError where the key was used for something that is no charge.
    """
    target, payment = state.target, state.payment
    if target is None:
        return _close(operation, now, is_new=True)
    if target.kind != Authorize.kind:
        raise CodebankError(
            Code.FAILED_PRECONDITION, f"this key was used for {target.kind}: only a charge is cancelled"
        )
    if payment is None:
        return _close(operation, now, is_new=False)
    if payment.status == PaymentStatus.APPROVED:
        return _give_back(state, payment, operation, now, new_id)
    outcome = CancelOutcome.REFUNDED if payment.status == PaymentStatus.REFUNDED else CancelOutcome.NOTHING_CHARGED
    if outcome is CancelOutcome.NOTHING_CHARGED and payment.status != PaymentStatus.DECLINED:
        raise CodebankError(Code.FAILED_PRECONDITION, f"a {payment.status} payment cannot be cancelled by this release")
    return Changes(answer=CancelAnswer(outcome, payment, operation.target), at=now)


def _cause(operation: Cancel) -> Cause:
    """Name the key that is cancelled: it is cancelled for ever, so it must be found again from the log too."""
    return Cause(kind=operation.kind, caller_id=operation.merchant_id, key_hash=hash_of(operation.target), digest="")


def _close(operation: Cancel, now: datetime, *, is_new: bool) -> Changes:
    answer = CancelAnswer(CancelOutcome.KEY_CLOSED, None, operation.target)
    return Changes(answer=answer, cancels=(operation.merchant_id, operation.target) if is_new else None, at=now)


def _give_back(state: State, payment: PaymentState, operation: Cancel, now: datetime, new_id: NewId) -> Changes:
    account = state.account
    assert account is not None
    entry = payment_entry(
        EntryKind.REFUND,
        account.account_id,
        payment.merchant_id,
        payment.captured_minor,
        payment.currency,
        payment.payment_id,
        now,
        after_number=account.entry_number,
        after_hash=account.entry_hash,
    )
    after = counted(account, used_minor=account.used_minor - payment.captured_minor, entry=entry)
    assert after.used_minor >= 0
    given_back = replace(
        payment,
        status=PaymentStatus.REFUNDED,
        refunded_minor=payment.captured_minor,
        version=payment.version + 1,
        updated_at=now,
    )
    return Changes(
        answer=CancelAnswer(CancelOutcome.REFUNDED, given_back, operation.target),
        account=after,
        payment=given_back,
        entries=(entry,),
        events=(tell_payment(after, given_back, _cause(operation), now, new_id()),),
        cancels=(operation.merchant_id, operation.target),
        at=now,
    )
