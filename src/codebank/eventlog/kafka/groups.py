"""Consumer groups as others see them: who reads which partition, and how far a group came.

The calls that librdkafka would rather see used, which ask a group's coordinator as an administrator, are left alone
on purpose: when the coordinator's connection ends meanwhile, they use what was freed, and the process dies with it
(confluentinc/librdkafka#4605). What is asked here goes other ways: each broker tells of its groups, by a call that is
deprecated and works, and positions are read as a member reads its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from codebank.eventlog.kafka.client import ANSWER_SECONDS, places_of
from codebank.eventlog.kafka.lane import Lane
from codebank.eventlog.log import Member

#: Of the kinds of groups that Kafka keeps, the one whose members share partitions out.
_CONSUMERS: Final = "consumer"


@dataclass
class Groups:
    """Asks the brokers for their groups, on a thread of its own: with a broker down the answer takes long."""

    connection: Mapping[str, Any]
    admin: AdminClient
    lane: Lane
    #: Group → a client that bears its name and never joins it.
    _observers: dict[str, Consumer] = field(default_factory=dict)

    async def members(self, topic: str) -> list[Member]:
        """Tell who reads what of a topic."""
        return await self.lane.run(self._members, topic)

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """Tell how far a group came in each partition where it came anywhere."""
        return await self.lane.run(self._committed, topic, group)

    async def close(self) -> None:
        """Let the clients go."""
        for observer in self._observers.values():
            await self.lane.try_run(observer.close)
        self.lane.close()

    def _members(self, topic: str) -> list[Member]:
        found = []
        # The package says nothing of the types of what it fills in.
        groups: list[Any] = self.admin.list_groups(timeout=ANSWER_SECONDS)
        for group in groups:
            if group.protocol_type != _CONSUMERS:
                continue
            for one in group.members:
                partitions = assigned_of(one.assignment or b"").get(topic, ())
                # Brokers do not tell when they last heard of a member: who is listed is alive to them.
                if partitions:
                    found.append(Member(group.id, one.client_id, tuple(sorted(partitions)), 0))
        return sorted(found, key=lambda member: (member.group, member.member))

    def _committed(self, topic: str, group: str) -> dict[int, int]:
        numbers = places_of(self.admin.list_topics(topic, timeout=ANSWER_SECONDS), topic)
        observer = self._observer(group)
        asked = [TopicPartition(topic, number) for number in numbers]
        places = observer.committed(asked, timeout=ANSWER_SECONDS)
        for place in places:
            if place.error is not None:
                raise KafkaException(place.error)
        return {place.partition: place.offset for place in places if place.offset >= 0}

    def _observer(self, group: str) -> Consumer:
        if group not in self._observers:
            self._observers[group] = Consumer(
                {**self.connection, "group.id": group, "enable.auto.commit": False, "enable.auto.offset.store": False}
            )
        # What the client has to say is said when it is polled, and waits in memory until then.
        self._observers[group].poll(0)
        return self._observers[group]


def assigned_of(assignment: bytes) -> dict[str, tuple[int, ...]]:
    """Read a member's share: topic → partitions.

    The format is the Kafka protocol's ConsumerProtocolAssignment: a version of 2 bytes, then an array of topics, each
    a string and an array of partitions of 4 bytes; lengths are 4 bytes for arrays and 2 for strings, all big-endian.
    Later versions only add to the end. A member that waits for its share has an empty one.
    """
    if not assignment:
        return {}
    return dict(_shares(assignment))


def _shares(assignment: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    _version, topics = struct.unpack_from(">hi", assignment)
    at = struct.calcsize(">hi")
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", assignment, at)
        at += 2
        topic = assignment[at : at + length].decode()
        at += length
        (count,) = struct.unpack_from(">i", assignment, at)
        at += 4
        yield topic, struct.unpack_from(f">{count}i", assignment, at)
        at += 4 * count
