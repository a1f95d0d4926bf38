"""Opens the tracer that the settings name: one that records, or the one that does not."""

from __future__ import annotations

from codebank.errors import Code, CodebankError
from codebank.runtime.watch.tracing import OFF, Tracer


def read_ratio(text: str) -> float:
    """Read the share of requests that are traced. Raises CodebankError where it is none."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise CodebankError(
            Code.INVALID, f"CODEBANK_TRACE_RATIO: {text!r} is no share", hint="a number from 0 to 1, such as 0.01"
        )
    return ratio


def open_tracer(role: str, otlp: str, ratio_text: str, version: str) -> Tracer:
    """Give the tracer of a role; without an address it records nothing, and OpenTelemetry is not even loaded.

    Raises CodebankError where the settings do not fit, or the package is missing.
    """
    ratio = read_ratio(ratio_text)
    if not otlp:
        return OFF
    if not otlp.startswith(("http://", "https://")):
        raise CodebankError(Code.INVALID, f"CODEBANK_OTLP: {otlp!r} is no address", hint="such as http://jaeger:4318")
    try:
        # Only who sends spans pays for what sends them.
        from codebank.runtime.watch.otlp import open_recording
    except ImportError as error:
        hint = "install codebank[tracing], or leave CODEBANK_OTLP empty"
        raise CodebankError(Code.FAILED_PRECONDITION, "traces need OpenTelemetry's packages", hint=hint) from error
    return open_recording(role, otlp, ratio, version)
