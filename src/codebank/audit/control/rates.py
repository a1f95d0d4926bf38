"""Live rates: differences of counts over the last seconds. Pure; whoever reads the counts hands the time in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: A rate is of about so long a time; older counts are forgotten.
WINDOW_MILLISECONDS: Final = 10_000
#: Counts that lie closer together say too little.
_APART_MILLISECONDS: Final = 500
_SAMPLES_MAX: Final = 64


@dataclass
class Rates:
    """A short row of counts."""

    _samples: deque[tuple[int, dict[str, int]]] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))

    def add(self, milliseconds: int, counts: Mapping[str, int | None]) -> None:
        """Take note of counts at a time; None is a count that is not known now."""
        if self._samples and milliseconds - self._samples[-1][0] < _APART_MILLISECONDS:
            return
        self._samples.append((milliseconds, {name: count for name, count in counts.items() if count is not None}))
        while len(self._samples) > 2 and milliseconds - self._samples[1][0] >= WINDOW_MILLISECONDS:
            self._samples.popleft()
        if milliseconds - self._samples[0][0] > 2 * WINDOW_MILLISECONDS:
            # Nobody looked for a while: a mean over all that time would not be of now.
            while len(self._samples) > 1:
                self._samples.popleft()

    def tenths(self) -> dict[str, int]:
        """Give tenths per second of every count that two samples know; one that was set back begins anew."""
        found = {}
        for name in {name for _, counts in self._samples for name in counts}:
            row = [(at, counts[name]) for at, counts in self._samples if name in counts]
            for place in range(len(row) - 1, 0, -1):
                if row[place - 1][1] > row[place][1]:
                    row = row[place:]
                    break
            milliseconds = row[-1][0] - row[0][0]
            if milliseconds > 0:
                found[name] = (row[-1][1] - row[0][1]) * 10_000 // milliseconds
        return found


def rate_text(tenths: int, language: str) -> str:
    """Write a rate as `12,3/s`; from a hundred on without a fraction, so that it fits on its arrow."""
    thousands, decimals = (",", ".") if language == "en" else (".", ",")
    whole, tenth = divmod(tenths, 10)
    if whole >= 10_000:
        return f"{whole // 1000:,}".replace(",", thousands) + f"{decimals}{whole % 1000 // 100}k/s"
    if whole >= 100 or not tenth:
        return f"{whole:,}".replace(",", thousands) + "/s"
    return f"{whole}{decimals}{tenth}/s"


def count_text(count: int, language: str) -> str:
    """Write a count with marks between thousands; from a million on in millions."""
    thousands, decimals = (",", ".") if language == "en" else (".", ",")
    if count < 1_000_000:
        return f"{count:,}".replace(",", thousands)
    millions, rest = divmod(count, 1_000_000)
    return f"{millions:,}".replace(",", thousands) + f"{decimals}{rest // 100_000} M"
