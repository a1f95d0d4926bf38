"""How far the statement is behind each partition of the log, whoever reads it, or nobody."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime

#: Looks in a row after which a position is believed to be where the log has nothing.
_LOOKS: int = 2


@dataclass(frozen=True, slots=True)
class Behind:
    """How far the statement is behind one partition."""

    #: Events on the log that are not stored.
    events: int
    #: Age, at most, of the oldest of them; 0 where there is none.
    age_seconds: float
    #: The position lies where the log has nothing, such as after its topic was made anew: nobody reads on from there,
    #: and what comes up to there would never be read.
    is_beyond: bool


@dataclass
class Lag:
    """Remembers from look to look since when a partition is behind."""

    #: Partition → nothing that is not stored yet is older. Whoever reads the partition knows best, and says so here.
    whole_until: dict[int, datetime]
    #: Partition → an end of the log and when it was seen; once the position is there, all until then is stored.
    _awaited: dict[int, tuple[int, datetime]] = field(default_factory=dict)
    #: Partition → looks in a row in which its position was past the end.
    _past: dict[int, int] = field(default_factory=dict)

    def look(
        self,
        ends: Mapping[int, int],
        kept: Mapping[int, int],
        assigned: Collection[int],
        caught_up: Mapping[int, datetime],
        now: datetime,
    ) -> dict[int, Behind]:
        """Compare positions with the ends of the log that were asked for after them.

        `caught_up` says when partitions were last seen read to their end, by any projector, also one that died.
        """
        found = {}
        for partition, end in ends.items():
            position = kept.get(partition, 0)
            self._past[partition] = self._past.get(partition, 0) + 1 if position > end else 0
            # Past the end, nothing of what is there was read.
            events = end - position if position <= end else end
            if position == end:
                self.whole_until[partition] = now
            elif partition not in self.whole_until:
                self.whole_until[partition] = caught_up.get(partition, now)
            if partition not in assigned:
                self._follow(partition, position, end, now)
            # Ahead of now: the clock was set back. The age counts from here, not from then.
            self.whole_until[partition] = min(self.whole_until[partition], now)
            age_seconds = (now - self.whole_until[partition]).total_seconds() if position != end else 0.0
            found[partition] = Behind(events, age_seconds, self._past[partition] >= _LOOKS)
        return found

    def _follow(self, partition: int, position: int, end: int, now: datetime) -> None:
        awaited = self._awaited.get(partition)
        if awaited is not None and awaited[0] <= position <= end:
            self.whole_until[partition] = max(awaited[1], self.whole_until[partition])
            awaited = None
        if awaited is None or awaited[0] > end:
            self._awaited[partition] = (end, now)
