"""Counters and histograms as plain numbers: several are counted for every payment, so counting must cost nothing.

The library's take a lock for every number. Ours need none: a number grows within one call that calls nothing else, and
the interpreter lets another thread in only between calls. They are shown in the library's own format.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from codebank.runtime.watch.metrics import Metric


class Tally:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, count: float = 1) -> None:
        """Count on."""
        self.value += count


class Spread:
    """One series of a histogram."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        #: How many lay within each bound and above the one before; the last, above all.
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.total += value
        self.counts[bisect_left(self.bounds, value)] += 1


class Tallies(Collector):
    """All series of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._series: dict[tuple[str, ...], Tally | Spread] = {}
        for labels in metric.starts or ([()] if not metric.labels else []):
            self.labels(*labels)

    def labels(self, *labels: str) -> Tally | Spread:
        """Give the series of these labels."""
        if len(labels) != len(self._metric.labels):
            raise ValueError(f"{self._metric.name} has the labels {self._metric.labels}")
        if labels not in self._series:
            self._series[labels] = Tally() if self._metric.kind is Counter else Spread(self._metric.buckets)
        return self._series[labels]

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Show what was counted until now."""
        metric = self._metric
        if metric.kind is Counter:
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, series in list(self._series.items()):
                assert isinstance(series, Tally)
                counter.add_metric(labels, series.value)
            yield counter
            return
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        names = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, series in list(self._series.items()):
            assert isinstance(series, Spread)
            within = accumulate(list(series.counts))
            histogram.add_metric(labels, list(zip(names, within, strict=True)), series.total)
        yield histogram
