"""What the relay counts."""

from __future__ import annotations

from typing import Final

from codebank.runtime.watch.metrics import counter, gauge, seconds

METRICS: Final = (
    gauge("outbox_events", "events committed and not yet on the log"),
    gauge("outbox_age_seconds", "age of the oldest event not yet on the log"),
    counter("relay_events", "events that the relay put on the log"),
    gauge("relay_leading", "1 where this relay ships, 0 where it stands by"),
    seconds("relay_ship", "time of one batch: read, put on the log, removed"),
)
