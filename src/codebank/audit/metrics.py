"""What the audit counts."""

from __future__ import annotations

from typing import Final

from codebank.runtime.watch.metrics import gauge

METRICS: Final = (
    gauge("proof_checks", "1 where an invariant of the proof holds, 0 where not", "check"),
    gauge("proof_seconds", "time that the last proof took"),
    gauge("proof_timestamp_seconds", "when the last proof ended"),
    gauge("proof_lag_events", "events that were on their way at the last proof"),
    gauge("proof_oldest_under_way_seconds", "age of the oldest event told of and not on the statement, by the proof"),
    gauge("database_bytes", "size of a database on disk", "database"),
)
