"""Metrics of several processes of one role, shown as those of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from codebank.runtime.watch.metrics import Adding

#: A series of a family: its name, and its labels in their order.
_Series = tuple[str, tuple[tuple[str, str], ...]]
#: Of what the library shows of a process, this is not to be added: all of them run since the last began.
_STARTED: Final[Mapping[str, Adding]] = {"process_start_time_seconds": max}


def add_up(texts: Iterable[str], addings: Mapping[str, Adding]) -> bytes:
    """Make one exposition of several: a gauge by its own rule, everything else as a sum."""
    registry = CollectorRegistry()
    registry.register(_Sums(texts, {**_STARTED, **addings}))
    return generate_latest(registry)


class _Sums(Collector):
    def __init__(self, texts: Iterable[str], addings: Mapping[str, Adding]) -> None:
        self._addings = addings
        self._families: dict[str, Family] = {}
        self._values: dict[str, dict[_Series, list[float]]] = {}
        for text in texts:
            for family in text_string_to_metric_families(text):
                self._families.setdefault(family.name, Family(family.name, family.documentation, family.type))
                series = self._values.setdefault(family.name, {})
                for sample in family.samples:
                    series.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample.value)

    def collect(self) -> Iterator[Family]:
        for name, family in self._families.items():
            adding = self._addings.get(name, sum)
            whole = Family(name, family.documentation, family.type)
            for (sample, labels), values in self._values[name].items():
                whole.add_sample(sample, dict(labels), adding(values))
            yield whole
