"""The log as the control room shows it: who keeps each partition, who reads it, and how far behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codebank.audit.store import control as store
from codebank.audit.store.sides import Sides
from codebank.eventlog.log import Broker
from codebank.events import PAYMENTS_TOPIC, STATEMENT_GROUP
from codebank.search.connect import CONNECTOR, group_of

_CONNECT_GROUP: Final = group_of(CONNECTOR)
#: Less than a side may take altogether.
_GROUPS_SECONDS: Final = 1.5


@dataclass(frozen=True, slots=True)
class GroupView:
    """A consumer group on one partition."""

    group: str
    #: Empty while nobody reads.
    reader: str
    #: Offsets of the partition that it has not passed; Kafka counts its own marks too.
    lag: int


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One partition: who keeps it, and who reads it."""

    number: int
    end: int
    #: The broker that takes and gives its records; None while there is none.
    leader: int | None
    replicas: Sequence[int]
    in_sync: Sequence[int]
    #: The projectors first.
    groups: Sequence[GroupView]

    @property
    def lag(self) -> int:
        """Offsets that the statement has not passed."""
        return self.groups[0].lag

    @property
    def reader(self) -> str:
        """The projector that reads it."""
        return self.groups[0].reader


@dataclass(frozen=True, slots=True)
class LogView:
    """The log as it is now."""

    #: `kafka` or `embedded`.
    kind: str
    brokers: Sequence[Broker]
    #: Brokers that keep something and do not answer.
    missing: Sequence[int]
    partitions: Sequence[PartitionView]


async def read_log(sides: Sides) -> LogView:
    """Ask the log and the statement where each reader stands."""
    positions = await store.read_positions(sides.statement)
    ends, layout, (readers, committed) = await asyncio.gather(
        sides.log.ends(PAYMENTS_TOPIC), sides.log.layout(PAYMENTS_TOPIC), _groups(sides)
    )
    groups = {STATEMENT_GROUP: positions}
    if sides.search is not None:
        groups[_CONNECT_GROUP] = committed
    partitions = [
        PartitionView(
            place.partition,
            ends.get(place.partition, 0),
            place.leader,
            place.replicas,
            place.in_sync,
            [
                GroupView(
                    group,
                    readers.get((group, place.partition), ""),
                    max(0, ends.get(place.partition, 0) - kept.get(place.partition, 0)),
                )
                for group, kept in groups.items()
            ],
        )
        for place in layout.partitions
    ]
    alive = {broker.broker_id for broker in layout.brokers}
    missing = {number for place in layout.partitions for number in place.replicas} - alive
    return LogView("kafka" if sides.settings.kafka else "embedded", layout.brokers, sorted(missing), partitions)


async def _groups(sides: Sides) -> tuple[dict[tuple[str, int], str], dict[int, int]]:
    """Ask who reads which partition, and where Connect stands; nothing where the brokers take long to tell.

    While a broker is down they do, and the log is shown without its readers rather than not at all.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_GROUPS_SECONDS):
            members = await sides.log.members(PAYMENTS_TOPIC)
            readers = {(one.group, number): one.member for one in members for number in one.partitions}
            if sides.search is None:
                return readers, {}
            return readers, await sides.log.committed(PAYMENTS_TOPIC, _CONNECT_GROUP)
    return {}, {}
