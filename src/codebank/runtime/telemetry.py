"""Logs, metrics and health of a process, served from a thread of their own, outside the payment loop."""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

Kind = TypeVar("Kind", Counter, Gauge, Histogram)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as docs/reference.md lists it."""

    name: str
    kind: type[Counter] | type[Gauge] | type[Histogram]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


METRICS: Final = (
    Metric("codebank_payments_total", Counter, "payments decided by the bank", ("outcome", "code")),
    Metric("codebank_batch_size", Histogram, "authorisations in one bank transaction", (), _SIZES),
    Metric("codebank_batch_seconds", Histogram, "time of one bank transaction", (), _SECONDS),
    Metric("codebank_queue_items", Gauge, "authorisations that wait for the next bank transaction"),
    Metric("codebank_rpc_total", Counter, "calls answered by the bank", ("method", "status")),
    Metric("codebank_rpc_seconds", Histogram, "time of one call at the bank", ("method",), _SECONDS),
    Metric("codebank_outbox_events", Gauge, "events committed and not yet on the log"),
    Metric("codebank_outbox_age_seconds", Gauge, "age of the oldest event not yet on the log"),
    Metric("codebank_relay_events_total", Counter, "events that the relay put on the log"),
    Metric("codebank_relay_leading", Gauge, "1 where this relay ships, 0 where it stands by"),
    Metric("codebank_projector_events_total", Counter, "events that the projector stored", ("type",)),
    Metric(
        "codebank_projector_lag_events",
        Gauge,
        "events on the log that the projector has not stored",
        ("partition",),
    ),
    Metric("codebank_projector_delay_seconds", Histogram, "time from the bank's commit to the line", (), _SECONDS),
    Metric("codebank_dead_letters_total", Counter, "records put aside because nobody could read them"),
    Metric("codebank_orders_total", Counter, "orders by how they ended", ("status",)),
    Metric("codebank_resolver_orders_total", Counter, "unknown outcomes that the resolver settled", ("status",)),
    Metric("codebank_open_pages", Gauge, "statement pages that are pushed to"),
    Metric("codebank_http_requests_total", Counter, "requests answered", ("route", "method", "status")),
    Metric("codebank_http_request_seconds", Histogram, "time of one request", ("route",), _SECONDS),
    Metric("codebank_proof_checks", Gauge, "1 where an invariant of the proof holds, 0 where not", ("check",)),
)


class Telemetry:
    """The metrics and the readiness of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._made = {metric.name: _make(metric, self.registry) for metric in METRICS}
        self.ready = threading.Event()

    def counter(self, name: str, *labels: str) -> Counter:
        """Give a counter, bound to its labels once so that counting is cheap."""
        return self._bound(name, labels, Counter)

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Give a gauge, bound to its labels."""
        return self._bound(name, labels, Gauge)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """Give a histogram, bound to its labels."""
        return self._bound(name, labels, Histogram)

    def _bound(self, name: str, labels: tuple[str, ...], kind: type[Kind]) -> Kind:
        metric = self._made[name]
        assert isinstance(metric, kind)
        return metric.labels(*labels) if labels else metric


def _make(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind is Histogram:
        return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry)
    return metric.kind(metric.name, metric.help, metric.labels, registry=registry)


@dataclass
class HealthServer:
    """Serves `/health/live`, `/health/ready` and `/metrics` from a thread."""

    telemetry: Telemetry
    host: str
    port: int
    _server: ThreadingHTTPServer | None = field(default=None, init=False)

    def start(self) -> None:
        """Open the port."""
        telemetry = self.telemetry

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body, content_type = _answer(telemetry, self.path)
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer((self.host, self.port), Handler)
        server.daemon_threads = True
        self._server = server
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def _answer(telemetry: Telemetry, path: str) -> tuple[int, bytes, str]:
    match path.partition("?")[0]:
        case "/metrics":
            return 200, generate_latest(telemetry.registry), CONTENT_TYPE_LATEST
        case "/health/live":
            return 200, b"live\n", "text/plain"
        case "/health/ready":
            ready = telemetry.ready.is_set()
            return (200, b"ready\n", "text/plain") if ready else (503, b"not ready\n", "text/plain")
    return 404, b"not found\n", "text/plain"


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line. What a record may say of a card is its mask, by the callers' care."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(role: str, level: str) -> None:
    """Send the process's logs to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def fields(**values: object) -> dict[str, Any]:
    """Name the fields of a log line: `log.info("shipped", extra=fields(events=5))`."""
    return {"fields": values}
