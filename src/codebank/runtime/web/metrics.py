"""What every site counts."""

from __future__ import annotations

from typing import Final

from codebank.runtime.watch.metrics import counter, seconds

WEB_METRICS: Final = (
    counter("http_requests", "requests answered", "route", "method", "status"),
    seconds("http_request", "time of one request", "route"),
)
