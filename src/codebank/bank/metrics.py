"""What the bank counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import Histogram

from codebank.events import DeclineCode
from codebank.runtime.watch.metrics import Metric, counter, gauge, one_each, seconds

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: From one real to a hundred thousand.
_AMOUNTS: Final = (100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000)
_AMOUNT: Final = "amounts of the payments decided, in minor units"
_DECISIONS: Final = (("approved", ""), *(("declined", str(code)) for code in DeclineCode))

METRICS: Final = (
    counter("payments", "payments decided by the bank", "outcome", "code", starts=_DECISIONS),
    Metric(
        "codebank_payment_amount_minor", Histogram, _AMOUNT, ("outcome",), _AMOUNTS, one_each("approved", "declined")
    ),
    Metric("codebank_batch_size", Histogram, "operations in one bank transaction", (), _SIZES),
    seconds("batch", "time of one bank transaction"),
    seconds("commit", "time of the statement that writes and commits it"),
    gauge("queue_items", "operations that wait for the next bank transaction"),
    counter(
        "batch_retries",
        "bank transactions begun anew because somebody else was first, or held something",
        "reason",
        starts=one_each("moved", "contested"),
    ),
    counter("rpc", "calls answered by the bank", "method", "status"),
    seconds("rpc", "time of one call at the bank", "method"),
)
