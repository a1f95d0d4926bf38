"""What the checkout counts."""

from __future__ import annotations

from typing import Final

from codebank.runtime.watch.metrics import counter, gauge, one_each, seconds

_ENDS: Final = one_each("paid", "declined", "cancelled")

METRICS: Final = (
    counter("orders", "orders by how they ended", "status", starts=_ENDS),
    counter(
        "resolver_orders",
        "unknown outcomes that the resolver looked into, by what it made of them; `overdue` and `failed` stay open",
        "status",
        starts=(*_ENDS, ("overdue",), ("failed",)),
    ),
    gauge("orders_processing", "orders whose outcome is not known yet"),
    gauge("orders_processing_age_seconds", "age of the oldest of them"),
    counter("bank_calls", "calls of the bank, each try", "method", "status"),
    seconds("bank_call", "time of one try", "method"),
)
