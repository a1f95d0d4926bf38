"""What a metric is, and those that every process shows.

Names follow Prometheus: base units, `_total` for counters. Labels have few values: routes are templates, codes enums.
Each room declares the metrics that it counts in its own `metrics.py`; the table of roles says which role shows which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

Kind = type[Counter] | type[Gauge] | type[Histogram]
#: Values of labels.
Series = tuple[tuple[str, ...], ...]
#: Makes one number of those of several processes.
Adding = Callable[[Iterable[float]], Any]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as docs/reference.md lists it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    #: Series that are there from the start: a rate of what was never counted would be nothing instead of nought.
    starts: Series = ()
    #: Makes one number of a gauge of several processes; what is counted is added up.
    adding: Adding = sum


def counter(name: str, meaning: str, *labels: str, starts: Series = ()) -> Metric:
    """Declare a counter; its name gets the prefix and `_total`."""
    return Metric(f"codebank_{name}_total", Counter, meaning, labels, (), starts)


def gauge(name: str, meaning: str, *labels: str, adding: Adding = sum) -> Metric:
    """Declare a gauge; its name gets the prefix."""
    return Metric(f"codebank_{name}", Gauge, meaning, labels, adding=adding)


def seconds(name: str, meaning: str, *labels: str) -> Metric:
    """Declare a histogram of times; its name gets the prefix and `_seconds`."""
    return Metric(f"codebank_{name}_seconds", Histogram, meaning, labels, _SECONDS)


def one_each(*values: str) -> Series:
    """Name the series of a metric with one label."""
    return tuple((value,) for value in values)


PROCESS_METRICS: Final = (
    seconds("event_loop_delay", "how late the event loop came back from a pause"),
    gauge("pool_connections", "connections of a pool to a database, used or idle", "database", "state"),
    seconds("pool_wait", "time until a pool gave a connection", "database"),
    gauge("certificate_expiry_timestamp_seconds", "when a certificate ends", "certificate", adding=min),
    gauge("info", "1; its labels say what runs", "version", "role", adding=max),
)
