"""What an order's page shows: its state in a buyer's words, and its journey. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from codebank.checkout.order import Order, OrderStatus
from codebank.events import Advice, DeclineCode

#: State of each status: colour and shape of the page.
_KINDS: Final[Mapping[str, str]] = {
    OrderStatus.PENDING: "waiting",
    OrderStatus.PROCESSING: "waiting",
    OrderStatus.PAID: "approved",
    OrderStatus.DECLINED: "refused",
    OrderStatus.CANCELLED: "refused",
}
#: What there are words for; anything else is shown in neutral ones.
_CODES: Final[frozenset[str]] = frozenset(DeclineCode)
_ADVICES: Final[frozenset[str]] = frozenset(Advice)


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as its page shows it."""

    kind: str
    #: Keys of words.
    title: str
    reason: str
    advice: str
    #: What support asks for: the raw codes.
    codes: str
    #: Milliseconds from order to decision; None while there is none.
    decided_after_milliseconds: int | None
    bank_kind: str
    #: Asks the statement whether the line is there; empty where there is none to come.
    arrival_url: str


def order_view(order: Order, statement_url: str, *, overdue: bool = False) -> OrderView:
    """Put an order into the words of its page; `overdue` where its outcome should be known by now."""
    decided = order.decided_at or (order.settled_at if order.status == OrderStatus.CANCELLED else None)
    elapsed = decided - order.created_at if decided else None
    milliseconds = (
        max(0, elapsed.days * 86_400_000 + elapsed.seconds * 1000 + elapsed.microseconds // 1000) if elapsed else None
    )
    kind = _KINDS.get(order.status, "waiting")
    return OrderView(
        kind=kind,
        title=f"order.title_{order.status}" if order.status in _KINDS else "order.title_other",
        reason=_reason(order, overdue=overdue),
        advice=_advice(order.advice),
        codes=_raw_codes(order),
        decided_after_milliseconds=milliseconds,
        bank_kind={"approved": "done", "refused": "failed"}.get(kind, ""),
        arrival_url=f"{statement_url}/api/arrivals/{order.payment_id}" if order.payment_id is not None else "",
    )


def _reason(order: Order, *, overdue: bool) -> str:
    if order.decline_code in _CODES:
        return f"decline.{order.decline_code}"
    if overdue:
        return "order.reason_overdue"
    return f"order.reason_{order.status}" if order.status in _KINDS else "order.reason_other"


def _advice(advice: str | None) -> str:
    if not advice:
        return ""
    return f"order.advice_{advice}" if advice in _ADVICES else "order.advice_other"


def _raw_codes(order: Order) -> str:
    unknown_status = None if order.status in _KINDS else order.status
    unknown_advice = None if order.advice in _ADVICES else order.advice
    return " · ".join(code for code in (unknown_status, order.decline_code, unknown_advice) if code)
