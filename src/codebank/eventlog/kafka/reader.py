"""A member of a group on Kafka: brokers share the partitions out, the reader keeps the positions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from codebank.eventlog.kafka.client import SLICE_SECONDS, cause_of, unavailable
from codebank.eventlog.kafka.lane import Lane
from codebank.eventlog.kafka.looker import record_of
from codebank.eventlog.log import LogUnavailable, Positions, Record

log = logging.getLogger(__name__)

_POSITIONS_SECONDS: Final = 10
#: Errors that the client mends by itself: meanwhile nothing comes.
_PASSING: Final = (
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._RESOLVE,
)


@dataclass(frozen=True, slots=True)
class Silence:
    """How long a member may be silent."""

    #: Nothing heard from its process.
    session_seconds: int = 6
    #: Its process lives, and nobody reads.
    idle_seconds: int = 60


class KafkaReader:
    """A member of a group; see `codebank.eventlog.log.Reader` for what it promises."""

    def __init__(
        self,
        connection: Mapping[str, Any],
        topic: str,
        group: str,
        member: str,
        positions: Positions,
        silence: Silence,
        lane: Lane,
    ) -> None:
        self._config = _config(connection, group, member, silence)
        self._topic = topic
        self._positions = positions
        self._lane = lane
        self._loop = asyncio.get_running_loop()
        self._consumer: Consumer | None = None
        self._next: dict[int, int] = {}
        self._failure: BaseException | None = None

    @property
    def assigned(self) -> frozenset[int]:
        return frozenset(self._next)

    async def read(self, max_records: int, timeout_seconds: float) -> list[Record]:
        deadline = self._loop.time() + timeout_seconds
        while True:
            pause = max(0.0, min(deadline - self._loop.time(), SLICE_SECONDS))
            records = await self._lane.run(self._read, max_records, pause)
            if records or self._loop.time() >= deadline:
                return records

    def _read(self, max_records: int, pause_seconds: float) -> list[Record]:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )
        try:
            # One call waits for the first record, the next takes what is there: together they never wait for a batch.
            first = self._consumer.poll(pause_seconds)
            messages = [] if first is None else [first, *self._consumer.consume(max_records - 1, 0)]
            if self._failure is not None:
                raise self._failure
            return self._records(messages)
        except Exception:
            # Whatever it was, a member that joins anew asks for its positions anew.
            self._drop()
            raise

    def _records(self, messages: list[Message]) -> list[Record]:
        found = []
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() not in _PASSING:
                    raise unavailable(error)
                continue
            partition = message.partition()
            if partition in self._next:
                record = record_of(message, self._next[partition])
                self._next[partition] = record.offset + 1
                found.append(record)
        return found

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = sorted(place.partition for place in partitions)
        try:
            # The positions are read on the event loop; it is free, because the reader only waits for this thread.
            asked = asyncio.run_coroutine_threadsafe(self._ask(numbers), self._loop)
            kept = asked.result(_POSITIONS_SECONDS)
        except BaseException as error:
            self._failure = error
            kept, numbers = {}, []
        places = [TopicPartition(self._topic, number, kept.get(number, 0)) for number in numbers]
        consumer.incremental_assign(places)
        self._next.update({place.partition: place.offset for place in places})
        log.info("partitions were given: %s", numbers)

    async def _ask(self, numbers: list[int]) -> Mapping[int, int]:
        return await self._positions(numbers)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        for place in partitions:
            self._next.pop(place.partition, None)
        log.info("partitions were taken: %s", sorted(place.partition for place in partitions))

    async def seek(self, partition: int, offset: int) -> None:
        if partition in self._next:
            await self._lane.run(self._seek, partition, offset)

    def _seek(self, partition: int, offset: int) -> None:
        assert self._consumer is not None
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
            self._next[partition] = offset
        except KafkaException as error:
            # Such as a partition that is being given away just now.
            self._drop()
            raise LogUnavailable(f"Kafka: cannot go to {offset}: {cause_of(error).str()}") from error

    def _drop(self) -> None:
        consumer, self._consumer, self._failure = self._consumer, None, None
        self._next.clear()
        if consumer is not None:
            consumer.close()

    async def close(self) -> None:
        if not self._lane.is_closed:
            await self._lane.run(self._drop)
            self._lane.close()


def _config(connection: Mapping[str, Any], group: str, member: str, silence: Silence) -> dict[str, Any]:
    return {
        **connection,
        "group.id": group,
        "client.id": member,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": silence.session_seconds * 1000,
        "heartbeat.interval.ms": silence.session_seconds * 1000 // 4,
        "max.poll.interval.ms": max(silence.idle_seconds, silence.session_seconds) * 1000,
        "isolation.level": "read_committed",
        # Positions are kept with what was made of the records, never by the brokers.
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # A position that is not on the log is a loss, and is told.
        "auto.offset.reset": "error",
        # What is fetched ahead is bounded, and so is what one partition may put before the others.
        "queued.min.messages": 2000,
        "queued.max.messages.kbytes": 8192,
        "fetch.message.max.bytes": 262_144,
        "fetch.queue.backoff.ms": 50,
    }
