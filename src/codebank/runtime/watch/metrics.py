"""Every metric that a role shows: its name, kind, labels, meaning, and which roles own it.

Names follow Prometheus: base units, `_total` for counters. Labels have few values: routes are templates, codes enums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from codebank.events import DeclineCode

Kind = type[Counter] | type[Gauge] | type[Histogram]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: From one real to a hundred thousand.
_AMOUNTS: Final = (100, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000)

_ROLES: Final = ("bank", "relay", "checkout", "statement", "projector", "audit")
_PAGES: Final = ("checkout", "statement", "audit")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as docs/reference.md lists it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    #: Series that are there from the start: a rate of what was never counted would be nothing instead of nought.
    starts: tuple[tuple[str, ...], ...] = ()
    #: The roles that show it.
    roles: tuple[str, ...] = _ROLES


def _counter(name: str, meaning: str, *labels: str, starts: tuple[tuple[str, ...], ...] = ()) -> Metric:
    return Metric(f"codebank_{name}_total", Counter, meaning, labels, (), starts)


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"codebank_{name}", Gauge, meaning, labels)


def _seconds(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(f"codebank_{name}_seconds", Histogram, meaning, labels, _SECONDS)


def _one(*values: str) -> tuple[tuple[str, ...], ...]:
    return tuple((value,) for value in values)


def _of(roles: str | tuple[str, ...], *metrics: Metric) -> tuple[Metric, ...]:
    return tuple(replace(metric, roles=(roles,) if isinstance(roles, str) else roles) for metric in metrics)


_DECISIONS: Final = (("approved", ""), *(("declined", str(code)) for code in DeclineCode))
_ENDS: Final = _one("paid", "declined", "cancelled")
_AMOUNT: Final = "amounts of the payments decided, in minor units"

METRICS: Final = (
    *_of(
        "bank",
        _counter("payments", "payments decided by the bank", "outcome", "code", starts=_DECISIONS),
        Metric(
            "codebank_payment_amount_minor", Histogram, _AMOUNT, ("outcome",), _AMOUNTS, _one("approved", "declined")
        ),
        Metric("codebank_batch_size", Histogram, "authorisations in one bank transaction", (), _SIZES),
        _seconds("batch", "time of one bank transaction"),
        _seconds("commit", "time of its commit alone"),
        _gauge("queue_items", "authorisations that wait for the next bank transaction"),
        _counter("rpc", "calls answered by the bank", "method", "status"),
        _seconds("rpc", "time of one call at the bank", "method"),
    ),
    *_of(
        "relay",
        _gauge("outbox_events", "events committed and not yet on the log"),
        _gauge("outbox_age_seconds", "age of the oldest event not yet on the log"),
        _counter("relay_events", "events that the relay put on the log"),
        _gauge("relay_leading", "1 where this relay ships, 0 where it stands by"),
        _seconds("relay_ship", "time of one batch: read, put on the log, removed"),
    ),
    *_of(
        "projector",
        _counter("projector_events", "events that the projector stored", "type"),
        _gauge("projector_lag_events", "events on the log that the projector has not stored", "partition"),
        _gauge("projector_lag_seconds", "age, at most, of the oldest event that is not stored", "partition"),
        _seconds("projector_delay", "time from the bank's commit to the line"),
        _seconds("projector_batch", "time of storing what one read gave"),
        _counter("dead_letters", "records put aside because nobody could read them"),
        _gauge("dead_letters_waiting", "records put aside and not applied since"),
    ),
    *_of(
        "checkout",
        _counter("orders", "orders by how they ended", "status", starts=_ENDS),
        _counter("resolver_orders", "unknown outcomes that the resolver settled", "status", starts=_ENDS),
        _gauge("orders_processing", "orders whose outcome is not known yet"),
        _gauge("orders_processing_age_seconds", "age of the oldest of them"),
        _counter("bank_calls", "calls of the bank, each try", "method", "status"),
        _seconds("bank_call", "time of one try", "method"),
    ),
    *_of(
        "statement",
        _gauge("open_pages", "statement pages that are pushed to"),
        _counter(
            "sign_ins",
            "tries to sign in by how they ended",
            "outcome",
            starts=_one("entered", "refused", "too_many"),
        ),
    ),
    *_of(
        _PAGES,
        _counter("http_requests", "requests answered", "route", "method", "status"),
        _seconds("http_request", "time of one request", "route"),
    ),
    *_of(
        "audit",
        _gauge("proof_checks", "1 where an invariant of the proof holds, 0 where not", "check"),
        _gauge("proof_seconds", "time that the last proof took"),
        _gauge("proof_timestamp_seconds", "when the last proof ended"),
        _gauge("proof_lag_events", "events that were on their way at the last proof"),
        _gauge("database_bytes", "size of a database on disk", "database"),
    ),
    _seconds("event_loop_delay", "how late the event loop came back from a pause"),
    _gauge("pool_connections", "connections of a pool to a database, used or idle", "database", "state"),
    _seconds("pool_wait", "time until a pool gave a connection", "database"),
    _gauge("certificate_expiry_timestamp_seconds", "when a certificate ends", "certificate"),
    _gauge("info", "1; its labels say what runs", "version", "role"),
)
