"""Traces: one purchase from the shop's door to the pushed line, as OpenTelemetry spans over OTLP.

Whether a purchase is traced is decided first, at the door where it comes in, and only then is a span opened: an
unsampled request makes no span at all. The decision travels as a W3C `traceparent`: in gRPC metadata, in the outbox, in
the record's headers, in the notification that wakes a page. Spans are sent by a thread of the SDK's; a collector that
is away costs spans, never a payment. Nothing of a card is ever an attribute: ids, outcomes and places on the log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final, Protocol

#: W3C Trace Context, section 3.2: version, trace, parent, flags. Zeros are no ids.
TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")

Attribute = str | int | bool

#: What is being done belongs to this trace; empty where nobody decided.
current: ContextVar[str] = ContextVar("traceparent", default="")


def is_sampled(traceparent: str) -> bool:
    """Tell whether a traceparent is one, and says that its trace is recorded."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found is not None and bool(int(found[3], 16) & 1)


def trace_id_of(traceparent: str) -> str:
    """Give the trace of a traceparent; empty where it is none."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


class Span(Protocol):
    """A piece of work that is recorded, or one that is not."""

    traceparent: str

    def name(self, name: str) -> None:
        """Name it anew, where it is known only later what it was."""

    def set(self, **attributes: Attribute) -> None:
        """Say more of it; dots are written as two underscores."""

    def fail(self, reason: str) -> None:
        """Mark the span as an error, so that searches for failures find it."""

    def end(self) -> None:
        """It is over."""


class Unrecorded:
    """A piece of work that is not recorded."""

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def name(self, name: str) -> None:
        pass

    def set(self, **attributes: Attribute) -> None:
        pass

    def fail(self, reason: str) -> None:
        pass

    def end(self) -> None:
        pass


#: What nobody records.
NOTHING: Final = Unrecorded()


class Tracer:
    """Records nothing. What every process has until it is told where to send spans."""

    is_on = False

    def begin(self, name: str, parent: str, kind: str = "internal", **attributes: Attribute) -> Span:
        """Begin a span below a parent; nothing is recorded where the parent is not."""
        return NOTHING

    def begin_root(self, name: str, **attributes: Attribute) -> Span:
        """Decide whether what comes in is traced, and begin its first span."""
        return NOTHING

    @contextlib.contextmanager
    def span(
        self, name: str, parent: str | None = None, kind: str = "internal", **attributes: Attribute
    ) -> Iterator[Span]:
        """Record a piece of work, and be its place for what is done within; below what is being done, if no parent."""
        begun = self.begin(name, current.get() if parent is None else parent, kind, **attributes)
        with carrying(begun):
            yield begun

    def close(self) -> None:
        """Send what is left."""


OFF: Final = Tracer()


@contextlib.contextmanager
def carrying(span: Span) -> Iterator[None]:
    """Let what is done meanwhile belong to a span, then end it."""
    before = current.set(span.traceparent) if span.traceparent else None
    try:
        yield
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()
        if before is not None:
            current.reset(before)
