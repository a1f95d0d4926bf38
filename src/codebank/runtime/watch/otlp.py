"""Spans that are really recorded and sent: OpenTelemetry's SDK behind `codebank.runtime.watch.tracing`."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import requests
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from codebank.runtime.watch.tracing import NOTHING, TRACEPARENT, Attribute, Span, Tracer, Unrecorded

_FLUSH_MILLISECONDS: Final = 3000
_SEND_SECONDS: Final = 5
_QUEUE_SPANS: Final = 4096
_PAUSE_MILLISECONDS: Final = 1000


def open_recording(role: str, otlp: str, ratio: float, version: str) -> Tracer:
    """Give a tracer that sends what it records to a collector, from a thread of its own."""
    resource = Resource.create({"service.name": f"codebank-{role}", "service.version": version})
    # No sampler: what was begun is sent, because it was decided before.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # The collector is where the setting says: no proxy of the environment, no password of a .netrc.
    session = requests.Session()
    session.trust_env = False
    exporter = OTLPSpanExporter(endpoint=f"{otlp.rstrip('/')}/v1/traces", timeout=_SEND_SECONDS, session=session)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=_QUEUE_SPANS, schedule_delay_millis=_PAUSE_MILLISECONDS)
    )
    return _Recording(provider, ratio)


class _Recording(Tracer):
    """Records what is sampled."""

    is_on = True

    def __init__(self, provider: TracerProvider, ratio: float) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("codebank")
        self._ratio = ratio

    def begin(self, name: str, parent: str, kind: str = "internal", **attributes: Attribute) -> Span:
        found = TRACEPARENT.fullmatch(parent)
        if found is None or not int(found[3], 16) & 1:
            return NOTHING
        ids = int(found[1], 16), int(found[2], 16)
        remote = trace.SpanContext(*ids, is_remote=True, trace_flags=trace.TraceFlags(1))
        context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        return self._begin(name, context, kind, attributes)

    def begin_root(self, name: str, **attributes: Attribute) -> Span:
        # Nothing that a stranger sends decides what is recorded here.
        if random.random() >= self._ratio:  # noqa: S311 (a sample, not a secret)
            return Unrecorded(f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00")
        return self._begin(name, Context(), "server", attributes)

    def _begin(self, name: str, context: Any, kind: str, attributes: Mapping[str, Attribute]) -> Span:
        kinds = trace.SpanKind
        begun = self._tracer.start_span(
            name, context=context, kind=kinds[kind.upper()], attributes=_dotted(attributes), start_time=time.time_ns()
        )
        return _Recorded(begun)

    def close(self) -> None:
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()


class _Recorded:
    """A span of OpenTelemetry's."""

    def __init__(self, span: Any) -> None:
        self._span = span
        self._is_over = False
        made = span.get_span_context()
        self.traceparent = f"00-{made.trace_id:032x}-{made.span_id:016x}-01"

    def name(self, name: str) -> None:
        if not self._is_over:
            self._span.update_name(name)

    def set(self, **attributes: Attribute) -> None:
        if not self._is_over:
            self._span.set_attributes(_dotted(attributes))

    def fail(self, reason: str) -> None:
        if not self._is_over:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, reason))

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._span.end()


def _dotted(attributes: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """Write names as OpenTelemetry does: `rpc__method` is `rpc.method`."""
    return {name.replace("__", "."): value for name, value in attributes.items()}
