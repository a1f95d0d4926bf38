"""The log on Kafka brokers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka.admin import AdminClient

from codebank.eventlog.kafka.client import ANSWER_SECONDS, connection_of, places_of
from codebank.eventlog.kafka.groups import Groups
from codebank.eventlog.kafka.lane import Lane, Lanes
from codebank.eventlog.kafka.looker import Looker
from codebank.eventlog.kafka.reader import KafkaReader, Silence
from codebank.eventlog.kafka.writer import KafkaWriter
from codebank.eventlog.log import Broker, Layout, Member, PartitionPlace, Positions, Record
from codebank.settings import Settings

#: Calls of readers and writers wait a second for records, ten for positions, and to leave a group: not longer.
_MEMBER_STUCK_SECONDS: Final = 30


@dataclass
class KafkaLog:
    """The log on Kafka; see `codebank.eventlog.log.EventLog` for what it promises."""

    settings: Settings
    silence: Silence = field(default_factory=Silence)
    #: Its threads; whoever is asked whether the process lives asks them too.
    lanes: Lanes = field(default_factory=Lanes)
    _connection: dict[str, Any] = field(init=False)
    _looker: Looker = field(init=False)
    _admin: AdminClient = field(init=False)
    _lane: Lane = field(init=False)
    _groups: Groups = field(init=False)

    def __post_init__(self) -> None:
        self._connection = connection_of(self.settings)
        self._looker = Looker(self._connection, self.lanes.open("looker"))
        self._admin = AdminClient(dict(self._connection))
        self._lane = self.lanes.open("admin")
        self._groups = Groups(self._connection, self._admin, self.lanes.open("groups"))

    async def open_writer(self, topic: str) -> KafkaWriter:
        lane = self.lanes.open("writer", _MEMBER_STUCK_SECONDS)
        writer = KafkaWriter(self._connection, topic, self._looker, lane)
        try:
            await writer.open()
        except BaseException:
            await asyncio.shield(writer.close())
            raise
        return writer

    async def open_reader(self, topic: str, group: str, member: str, positions: Positions) -> KafkaReader:
        lane = self.lanes.open("reader", _MEMBER_STUCK_SECONDS)
        return KafkaReader(self._connection, topic, group, member, positions, self.silence, lane)

    async def ends(self, topic: str, *, settled: bool = False) -> dict[int, int]:
        return await self._looker.ends(topic, settled=settled)

    async def scan(self, topic: str, partition: int, from_offset: int, max_records: int) -> list[Record]:
        return await self._looker.scan(topic, partition, from_offset, max_records)

    async def members(self, topic: str) -> list[Member]:
        return await self._groups.members(topic)

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        return await self._groups.committed(topic, group)

    async def layout(self, topic: str) -> Layout:
        return await self._lane.run(self._layout, topic)

    def _layout(self, topic: str) -> Layout:
        metadata = self._admin.list_topics(topic, timeout=ANSWER_SECONDS)
        brokers = [Broker(one.id, f"{one.host}:{one.port}") for one in metadata.brokers.values()]
        alive = {broker.broker_id for broker in brokers}
        places = [
            PartitionPlace(
                number,
                place.leader if place.leader in alive else None,
                tuple(place.replicas),
                # Of a dead leader's partition nobody has news: whoever does not answer is not counted.
                tuple(one for one in place.isrs if one in alive),
            )
            for number, place in sorted(places_of(metadata, topic).items())
        ]
        return Layout(tuple(sorted(brokers, key=lambda broker: broker.broker_id)), tuple(places))

    async def close(self) -> None:
        """Let the clients go."""
        await self._looker.close()
        self._lane.close()
        await self._groups.close()
