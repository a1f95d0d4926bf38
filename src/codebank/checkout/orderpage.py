"""What an order's page shows: its state in a buyer's words, and its journey from the click on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from codebank.checkout.order import Order, OrderStatus, is_overdue
from codebank.checkout.refusal import Refusal, public_code, refusal_of
from codebank.events import Advice

#: State of each status: colour and shape of the page.
_KINDS: Final[Mapping[str, str]] = {
    OrderStatus.PENDING: "waiting",
    OrderStatus.PROCESSING: "waiting",
    OrderStatus.PAID: "approved",
    OrderStatus.DECLINED: "refused",
    OrderStatus.CANCELLED: "returned",
}
_ADVICES: Final[frozenset[str]] = frozenset(Advice)
_STATEMENT: Final = "order.step_statement"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence: its key, and the values that are put in."""

    key: str
    values: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OrderStep:
    """One step of the journey."""

    #: done, failed, now, or "" for what is not there yet.
    kind: str
    what: Sentence
    #: Milliseconds from the click; None where it is not known.
    after_milliseconds: int | None = None
    #: Asks the statement whether the line is there; empty where there is none to come.
    arrival_url: str = ""


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as its page shows it."""

    kind: str
    title: str
    reason: Sentence
    #: What the buyer can do, where there is anything.
    refusal: Refusal | None
    #: What support asks for: the raw codes.
    codes: str
    steps: tuple[OrderStep, ...]
    #: What is under way: which try, for how long, and what comes next; nothing once the order has ended.
    under_way: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the bank is waited for."""

    cancel_after_seconds: int
    #: Whether codes are shown that only whoever tests may know.
    tells_all: bool = False


def order_view(order: Order, statement_url: str, now: datetime, limits: Limits) -> OrderView:
    """Put an order into the words of its page."""
    kind = _KINDS.get(order.status, "waiting")
    refusal = _refusal(order, limits)
    overdue = is_overdue(order, now, limits.cancel_after_seconds)
    return OrderView(
        kind=kind,
        title=f"order.title_{order.status}" if order.status in _KINDS else "order.title_other",
        reason=Sentence(refusal.reason) if order.decline_code and refusal else _reason(order, overdue=overdue),
        refusal=refusal,
        codes=_codes(order, limits),
        steps=_steps(order, statement_url),
        under_way=_under_way(order, now, limits, overdue=overdue),
    )


def _refusal(order: Order, limits: Limits) -> Refusal | None:
    if order.decline_code:
        return refusal_of(order.decline_code, order.advice, tells_all=limits.tells_all)
    if order.status == OrderStatus.CANCELLED:
        return Refusal("", "order.advice_same_card", "order.again_same_card")
    return None


def _reason(order: Order, *, overdue: bool) -> Sentence:
    if overdue:
        return Sentence("order.reason_overdue")
    if order.status == OrderStatus.CANCELLED:
        waited = {"seconds": _seconds(order, order.settled_at or order.created_at)}
        # With a payment the bank had charged, and gave it back.
        return Sentence("order.reason_cancelled" if order.payment_id is None else "order.reason_returned", waited)
    return Sentence(f"order.reason_{order.status}" if order.status in _KINDS else "order.reason_other")


def _codes(order: Order, limits: Limits) -> str:
    unknown_status = None if order.status in _KINDS else order.status
    unknown_advice = None if order.advice in _ADVICES else order.advice
    code = order.decline_code and public_code(order.decline_code, tells_all=limits.tells_all)
    return " · ".join(code for code in (unknown_status, code, unknown_advice) if code)


def _steps(order: Order, statement_url: str) -> tuple[OrderStep, ...]:
    """List what happened; all times have one zero, the buyer's click."""
    placed = OrderStep("done", Sentence("order.step_order"), 0)
    if not order.is_ended:
        return placed, OrderStep("now", Sentence("order.step_bank_waiting")), OrderStep("", Sentence(_STATEMENT))
    arrival_url = f"{statement_url}/api/arrivals/{order.payment_id}" if order.payment_id is not None else ""
    if order.status == OrderStatus.CANCELLED:
        return (
            placed,
            OrderStep("failed", Sentence("order.step_bank_silent", {"count": order.tries})),
            OrderStep("done", Sentence("order.step_cancelled"), _after(order, order.settled_at)),
            *((OrderStep("", Sentence(_STATEMENT), arrival_url=arrival_url),) if arrival_url else ()),
        )
    is_paid = order.status == OrderStatus.PAID
    decision = OrderStep(
        "done" if is_paid else "failed",
        Sentence("order.step_bank_approved" if is_paid else "order.step_bank_refused"),
        _after(order, order.decided_at),
    )
    # The answer has a step of its own: it may have been lost, and asked for again.
    key = "order.step_answer" if order.tries == 1 else "order.step_answer_again"
    answer = OrderStep("done", Sentence(key, {"count": order.tries}), _after(order, order.settled_at))
    return placed, decision, answer, OrderStep("", Sentence(_STATEMENT), _after(order, order.decided_at), arrival_url)


def _under_way(order: Order, now: datetime, limits: Limits, *, overdue: bool) -> tuple[Sentence, ...]:
    if not order.is_open:
        return ()
    tried = Sentence("order.trying" if order.tries == 1 else "order.trying_again", {"count": order.tries})
    since = Sentence("order.since", {"seconds": _seconds(order, now)})
    soon = Sentence("order.next", {"seconds": limits.cancel_after_seconds})
    return tried, since, Sentence("order.next_cancelling") if overdue else soon


def _after(order: Order, moment: datetime | None) -> int | None:
    if moment is None:
        return None
    elapsed = moment - order.created_at
    return max(0, elapsed.days * 86_400_000 + elapsed.seconds * 1000 + elapsed.microseconds // 1000)


def _seconds(order: Order, moment: datetime) -> int:
    return (_after(order, moment) or 0) // 1000
