"""Percentiles of what was timed."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(times: Sequence[int], percent: int) -> int:
    """Give a percentile of sorted times; nought where there are none."""
    return times[min(len(times) - 1, len(times) * percent // 100)] if times else 0
