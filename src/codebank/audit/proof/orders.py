"""The shop's orders against the bank's payments: who paid was charged once, and who was charged has an order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from codebank.audit.proof.reconcile import Check, Difference, check_of
from codebank.audit.store import payments as store
from codebank.audit.store.sides import Sides, snapshot
from codebank.events import PaymentStatus

_PROMISE = "each paid order has one payment of its amount, and no payment of the shop is without an order"

_STATES: Final = frozenset(PaymentStatus)


@dataclass(slots=True)
class _Order:
    status: str
    total_minor: int
    is_charged: bool = False


@dataclass(frozen=True, slots=True)
class _Stray:
    """A payment that took money, whose key may be an order's, and none was there when the orders were read."""

    order_id: UUID
    merchant_id: UUID
    payment_id: UUID
    amount_minor: int
    currency: str


@dataclass
class Orders:
    """The orders as they were before the bank was read; its payments are compared as they come.

    An ended order's payment must be at the bank by then. A payment without an order may be of one that came later, so
    those are looked up once all payments are known.
    """

    _orders: dict[int, _Order] = field(default_factory=dict)
    #: Whose shop is this checkout: other merchants keep their orders elsewhere.
    _merchants: set[UUID] = field(default_factory=set)
    _strays: list[_Stray] = field(default_factory=list)
    _differences: list[Difference] = field(default_factory=list)

    @classmethod
    async def read(cls, sides: Sides) -> Orders:
        """Read all orders: little of each, for there are as many as payments."""
        orders = cls()
        statuses: dict[str, str] = {}
        async with snapshot(sides.checkout) as checkout:
            async for row in store.orders(checkout):
                status = statuses.setdefault(row["status"], row["status"])
                orders._orders[row["order_id"].int] = _Order(status, row["total_minor"])
        return orders

    def compare(self, payments: Iterable[asyncpg.Record]) -> None:
        """Compare payments of the bank with their orders."""
        for payment in payments:
            order_id = _order_id(payment["idempotency_key"])
            if order_id is None:
                continue
            order = self._orders.get(order_id.int)
            if order is not None:
                order.is_charged = True
                self._merchants.add(payment["merchant_id"])
                self._compare(order_id, order, payment)
            elif _kept(payment):
                values = (payment[name] for name in ("merchant_id", "payment_id", "amount_minor", "currency"))
                self._strays.append(_Stray(order_id, *values))

    def _compare(self, order_id: UUID, order: _Order, payment: asyncpg.Record) -> None:
        status, amount_minor = payment["status"], payment["amount_minor"]
        # Of a state that has no name here nobody knows whether the money is still to come.
        if order.status == "paid" and not _kept(payment) and status in _STATES:
            self._differences.append(Difference("order_unpaid", order=order_id, status=status))
        elif order.status == "paid" and amount_minor != order.total_minor:
            amounts = {"amount_minor": order.total_minor, "charged_minor": amount_minor}
            self._differences.append(Difference("order_amount", payment["currency"], order=order_id, **amounts))
        elif order.status in ("declined", "cancelled") and _kept(payment):
            self._differences.append(Difference("order_approved", order=order_id, status=order.status))

    async def check(self, sides: Sides) -> Check:
        """Say what was found, once every payment was compared."""
        self._differences += [
            Difference("order_unpaid", order=UUID(int=number), status="missing")
            for number, order in self._orders.items()
            if order.status == "paid" and not order.is_charged
        ]
        strays = [stray for stray in self._strays if stray.merchant_id in self._merchants]
        known = await store.known_orders(sides.checkout, [stray.order_id for stray in strays])
        self._differences += [
            Difference("no_order", stray.currency, payment=stray.payment_id, amount_minor=stray.amount_minor)
            for stray in strays
            if stray.order_id not in known
        ]
        return check_of("orders", _PROMISE, len(self._orders), self._differences)


def _kept(payment: asyncpg.Record) -> int:
    """Say how much of a payment was charged and not given back."""
    return int(payment["captured_minor"] - payment["refunded_minor"])


def _order_id(key: str) -> UUID | None:
    """Read a payment's key, if it is an order's: merchants choose theirs as they like."""
    try:
        order_id = UUID(key)
    except ValueError:
        return None
    return order_id if str(order_id) == key else None
