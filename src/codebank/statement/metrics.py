"""What the statement counts: its pages, and the projector."""

from __future__ import annotations

from typing import Final

from codebank.runtime.watch.metrics import counter, gauge, one_each, seconds

PROJECTOR_METRICS: Final = (
    counter("projector_events", "events that the projector stored", "type"),
    gauge("projector_lag_events", "events on the log that the projector has not stored", "partition"),
    gauge("projector_lag_seconds", "age, at most, of the oldest event that is not stored", "partition"),
    seconds("projector_delay", "time from the bank's commit to the line"),
    seconds("projector_batch", "time of storing what one read gave"),
    counter("dead_letters", "records put aside because nobody could read them"),
    gauge("projector_positions_beyond", "partitions read further than the log goes"),
    gauge("dead_letters_waiting", "records put aside, neither applied since nor dismissed"),
    gauge("search_dead_letters_waiting", "records that the search could not index, about which nothing was decided"),
    gauge("dead_letters_dismissed", "records put aside that somebody decided never to read"),
)
PAGES_METRICS: Final = (
    gauge("open_pages", "streams to open statement pages, one for a browser"),
    counter(
        "sign_ins", "tries to sign in by how they ended", "outcome", starts=one_each("entered", "refused", "too_many")
    ),
)
