"""Logs, metrics and health of a process, served from a thread of their own, outside the payment loop."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeVar, cast

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Gauge,
    ProcessCollector,
    generate_latest,
)

from codebank.runtime.listener import open_listener
from codebank.runtime.watch.metrics import Metric
from codebank.runtime.watch.tallies import Spread, Tallies, Tally
from codebank.runtime.watch.tracing import OFF, Tracer, current, trace_id_of

Kind = TypeVar("Kind", Tally, Gauge, Spread)
#: An event loop that did not turn for so long is taken for dead.
_LIVE_SECONDS: Final = 15


class Readiness:
    """Whether a role can be used: while it serves, and nothing hinders the work beside that. Read by any thread."""

    def __init__(self) -> None:
        self._serves = False
        self._hindered: set[str] = set()

    def set(self) -> None:
        """Say that the role serves."""
        self._serves = True

    def clear(self) -> None:
        """Say that it does not, or stops: no work beside it makes it ready again."""
        self._serves = False

    def note(self, work: str, *, does: bool) -> None:
        """Take note of whether a loop can do its work now; the role is not ready while one cannot."""
        (self._hindered.discard if does else self._hindered.add)(work)

    def is_set(self) -> bool:
        """Tell whether it can be used now."""
        return self._serves and not self._hindered


class Telemetry:
    """The metrics and the health of one process."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self.registry = CollectorRegistry()
        self.ready = Readiness()
        #: Whether it could ever be used: what ends it before is an error of its start.
        self.has_served = False
        self.tracer: Tracer = OFF
        self._beat_at: float | None = None
        self._moves: list[Callable[[], bool]] = []
        self._bound: dict[tuple[str, ...], Tally | Gauge | Spread] = {}
        self._made: dict[str, Tallies | Gauge] = {}
        for metric in metrics:
            if metric.kind is Gauge:
                self._made[metric.name] = Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
            else:
                self._made[metric.name] = tallies = Tallies(metric)
                self.registry.register(tallies)
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, *labels: str) -> Tally:
        """Give a counter, bound to its labels."""
        return self._bind(Tally, name, labels)

    def gauge(self, name: str, *labels: str) -> Gauge:
        """Give a gauge, bound to its labels."""
        return self._bind(Gauge, name, labels)

    def histogram(self, name: str, *labels: str) -> Spread:
        """Give a histogram, bound to its labels."""
        return self._bind(Spread, name, labels)

    def _bind(self, kind: type[Kind], name: str, labels: tuple[str, ...]) -> Kind:
        bound = self._bound.get((name, *labels))
        if bound is None:
            made = self._made[name]
            bound = made if isinstance(made, Gauge) and not labels else made.labels(*labels)
            assert isinstance(bound, kind)
            self._bound[(name, *labels)] = bound
        return cast("Kind", bound)

    def beat(self) -> None:
        """Say that the event loop turns."""
        self.has_served = self.has_served or self.ready.is_set()
        self._beat_at = time.monotonic()

    def live_while(self, moves: Callable[[], bool]) -> None:
        """Take the process for dead, too, where this says no: what threads beside the event loop do."""
        self._moves.append(moves)

    def is_live(self) -> bool:
        """Tell whether the event loop turned lately, or has not begun, and no thread beside it stands still."""
        turns = self._beat_at is None or time.monotonic() - self._beat_at < _LIVE_SECONDS
        return turns and all(moves() for moves in self._moves)

    def is_ready(self) -> bool:
        """Tell whether the role can be used now."""
        return self.ready.is_set()

    def shown(self) -> bytes | None:
        """Write all metrics as Prometheus reads them; None where they cannot be told now."""
        return generate_latest(self.registry)


@dataclass
class HealthServer:
    """Serves `/health/live`, `/health/ready` and `/metrics` from a thread."""

    telemetry: Telemetry
    host: str
    port: int
    #: A socket that listens already, instead of a port of its own.
    door: socket.socket | None = None
    _server: ThreadingHTTPServer | None = field(default=None, init=False)

    def start(self) -> None:
        """Open the port. Raises CodebankError where it cannot be had."""
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

        door = self.door or open_listener(self.host, self.port)
        server = ThreadingHTTPServer((self.host, self.port), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = door
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
            metrics = telemetry.shown()
            return (200, metrics, CONTENT_TYPE_LATEST) if metrics else (503, b"not all of it answers\n", "text/plain")
        case "/health/live":
            live = telemetry.is_live()
            return (200, b"live\n", "text/plain") if live else (503, b"it stands still\n", "text/plain")
        case "/health/ready":
            ready = telemetry.is_ready()
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
        if trace_id := trace_id_of(current.get()):
            line["trace_id"] = trace_id
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
