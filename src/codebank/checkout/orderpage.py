"""What an order's page shows: its state in a buyer's words, and its journey. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from codebank.checkout.order import Order, OrderStatus

#: State of each status: colour and shape of the page.
_KINDS: Final = {
    OrderStatus.PENDING: "waiting",
    OrderStatus.PROCESSING: "waiting",
    OrderStatus.PAID: "approved",
    OrderStatus.DECLINED: "refused",
    OrderStatus.CANCELLED: "refused",
}


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order as its page shows it."""

    kind: str
    #: Keys of words.
    title: str
    reason: str
    advice: str
    #: Milliseconds from order to decision; None while there is none.
    decided_after_milliseconds: int | None
    bank_kind: str
    #: Asks the statement whether the line is there; empty where there is none to come.
    arrival_url: str


def order_view(order: Order, statement_url: str) -> OrderView:
    """Put an order into the words of its page."""
    decided = order.decided_at or (order.settled_at if order.status is OrderStatus.CANCELLED else None)
    elapsed = decided - order.created_at if decided else None
    milliseconds = (
        max(0, elapsed.days * 86_400_000 + elapsed.seconds * 1000 + elapsed.microseconds // 1000) if elapsed else None
    )
    has_line = order.payment_id is not None
    return OrderView(
        kind=_KINDS[order.status],
        title=f"order.title_{order.status}",
        reason=f"decline.{order.decline_code}" if order.decline_code else f"order.reason_{order.status}",
        advice=f"order.advice_{order.advice}" if order.advice else "",
        decided_after_milliseconds=milliseconds,
        bank_kind={"approved": "done", "refused": "failed"}.get(_KINDS[order.status], ""),
        arrival_url=f"{statement_url}/api/arrivals/{order.payment_id}" if has_line else "",
    )
