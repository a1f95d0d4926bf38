"""Reading pieces of the log without being anybody: for replay, for the tail, and for the proof."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from codebank.eventlog.kafka.client import ANSWER_SECONDS, PATIENCE_SECONDS, places_of, unavailable
from codebank.eventlog.kafka.lane import Lane
from codebank.eventlog.log import LogUnavailable, Record

#: A committed transaction leaves one mark behind its last record of a partition; an undone one leaves more.
_MARKS: Final = 2
_POLL_SECONDS: Final = 0.1
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
#: Early enough for a clock of any zone.
_LAST_MOMENT: Final = datetime(9999, 12, 30, tzinfo=UTC)
_SETTLE_SECONDS: Final = 0.005


def record_of(message: Message, follows: int) -> Record:
    """Make a record of what came from Kafka. Whatever another program wrote can be told of, so nothing is refused."""
    given = cast("list[tuple[str, str | bytes | None]]", message.headers() or [])
    headers = {name: _text(value) for name, value in given}
    offset, partition, topic = message.offset(), message.partition(), message.topic()
    assert offset is not None
    assert partition is not None
    assert topic is not None
    return Record(
        topic=topic,
        partition=partition,
        offset=offset,
        follows=follows,
        key=message.key() or b"",
        value=message.value() or b"",
        headers=headers,
        appended_at=_moment(message.timestamp()[1]),
    )


def _moment(milliseconds: int) -> datetime:
    """Give the moment that a record tells; one beyond any calendar, which its writer may set, is the nearest on it."""
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return _LAST_MOMENT if milliseconds > 0 else _EPOCH


def _text(value: str | bytes | None) -> str:
    # A zero byte is text in Kafka and none in PostgreSQL, where a dead letter's headers are kept.
    text = value if isinstance(value, str) else (value or b"").decode(errors="backslashreplace")
    return text.replace("\x00", "\\x00")


@dataclass
class Looker:
    """One consumer that belongs to no group, moved to wherever somebody wants to look."""

    connection: Mapping[str, Any]
    lane: Lane
    _consumer: Consumer = field(init=False)
    _admin: AdminClient = field(init=False)
    #: Where the last scan ended: going on from there costs nothing.
    _cursor: tuple[str, int, int] | None = None
    #: (topic, partition, high-water mark) → offset after the last record before it; what is written stays.
    _ends: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    #: Topic → the first offset of every partition, asked once: they hardly ever change.
    _lows: dict[str, dict[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._admin = AdminClient(dict(self.connection))
        self._consumer = Consumer(
            {
                **self.connection,
                "group.id": "codebank.looker",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                # Little is fetched ahead: whoever looks takes a piece at a time, and may have a small container.
                "queued.min.messages": 2000,
                "queued.max.messages.kbytes": 1024,
                "fetch.message.max.bytes": 262_144,
                "fetch.queue.backoff.ms": 20,
                # What is looked for is there already: a broker that has no more shall say so at once.
                "fetch.wait.max.ms": 10,
            }
        )

    async def ends(self, topic: str, *, settled: bool) -> dict[int, int]:
        """Give the offset after the last record of every partition."""
        if settled:
            await self._settle(topic)
        return await self.lane.run(self._ends_of, topic)

    async def _settle(self, topic: str) -> None:
        """Wait until every transaction that is open now has ended, for as long as a change of leaders takes.

        A commit is acknowledged before its marks are written, so what was acknowledged may lie behind an open end for
        a moment. One that stays open longer was never acknowledged: whoever wrote it is dead.
        """
        high = await self.lane.run(self._marks, topic, OffsetSpec.latest, IsolationLevel.READ_UNCOMMITTED)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while loop.time() < deadline:
            stable = await self.lane.run(self._marks, topic, OffsetSpec.latest)
            if all(stable.get(number, 0) >= mark for number, mark in high.items()):
                return
            await asyncio.sleep(_SETTLE_SECONDS)

    async def tail(self, topic: str, count: int) -> list[Record]:
        """Give the last `count` records of every partition."""
        await self._settle(topic)
        return await self.lane.run(self._tail_of, topic, count)

    async def scan(self, topic: str, partition: int, from_offset: int, max_records: int) -> list[Record]:
        """Give records of one partition."""
        return await self.lane.run(self._scan, topic, partition, from_offset, max_records)

    async def close(self) -> None:
        """Let the consumer go."""
        await self.lane.try_run(self._consumer.close)
        self.lane.close()

    def _marks(
        self,
        topic: str,
        spec: Callable[[], OffsetSpec],
        isolation: IsolationLevel = IsolationLevel.READ_COMMITTED,
    ) -> dict[int, int]:
        """Ask the brokers for the low or high marks of every partition."""
        # The timeout is short because leaders change: asking anew finds the new one.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            numbers = places_of(self._admin.list_topics(topic, timeout=ANSWER_SECONDS), topic)
            asked = {TopicPartition(topic, number): spec() for number in numbers}
            futures = self._admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_SECONDS)
            try:
                return {place.partition: future.result().offset for place, future in futures.items()}
            except Exception as error:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"Kafka does not say where {topic} ends: {error}") from error
                time.sleep(_POLL_SECONDS)

    def _ends_of(self, topic: str) -> dict[int, int]:
        marks = self._marks(topic, OffsetSpec.latest)
        stale = {number for number, mark in marks.items() if self._ends.get((topic, number), (0, 0))[0] != mark}
        found = self._last_records(topic, {number: marks[number] for number in stale}, 1) if stale else {}
        for number in stale:
            records = found[number]
            self._ends[topic, number] = (marks[number], records[-1].offset + 1 if records else 0)
        return {number: self._ends.get((topic, number), (0, 0))[1] for number in marks}

    def _tail_of(self, topic: str, count: int) -> list[Record]:
        found = self._last_records(topic, self._marks(topic, OffsetSpec.latest), count)
        return [record for number in sorted(found) for record in found[number]]

    def _last_records(self, topic: str, marks: Mapping[int, int], count: int) -> dict[int, list[Record]]:
        """Read backwards from the marks, further and further, until each partition gave enough or has no more."""
        if topic not in self._lows:
            self._lows[topic] = self._marks(topic, OffsetSpec.earliest)
        lows = self._lows[topic]
        found: dict[int, list[Record]] = {}
        back = count * _MARKS
        wanted = dict(marks)
        while wanted:
            starts = {number: max(lows[number], mark - back) for number, mark in wanted.items()}
            for number, records in self._read_to_marks(topic, starts, wanted).items():
                found[number] = records[-count:]
            enough = {number for number in wanted if len(found[number]) >= count or starts[number] == lows[number]}
            wanted = {number: mark for number, mark in wanted.items() if number not in enough}
            back *= 4
        return found

    def _read_to_marks(
        self, topic: str, starts: Mapping[int, int], marks: Mapping[int, int]
    ) -> dict[int, list[Record]]:
        self._cursor = None
        found: dict[int, list[Record]] = {number: [] for number in starts}
        open_ones = {number for number, start in starts.items() if start < marks[number]}
        self._consumer.assign([TopicPartition(topic, number, starts[number]) for number in open_ones])
        deadline = time.monotonic() + PATIENCE_SECONDS
        while open_ones:
            message = self._poll(deadline)
            if message is None:
                continue
            number, offset = message.partition(), message.offset()
            assert number is not None
            assert offset is not None
            if message.error() is None and offset < marks[number]:
                found[number].append(record_of(message, offset))
            if message.error() is not None or offset >= marks[number] - 1:
                open_ones.discard(number)
        self._consumer.unassign()
        return found

    def _scan(self, topic: str, partition: int, from_offset: int, max_records: int) -> list[Record]:
        if self._cursor != (topic, partition, from_offset):
            self._consumer.assign([TopicPartition(topic, partition, from_offset)])
        found: list[Record] = []
        follows = from_offset
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found) < max_records:
            message = self._poll(deadline)
            if message is None:
                continue
            if message.error() is not None:
                # The end; it is told once only, so the next scan must begin by itself. Nothing is fetched until then.
                follows = -1
                self._consumer.unassign()
                break
            found.append(record_of(message, follows))
            follows = found[-1].offset + 1
        self._cursor = (topic, partition, follows)
        return found

    def _poll(self, deadline: float) -> Message | None:
        """Give a message, or an end as a message with an error. Raises LogUnavailable for everything else."""
        message = self._consumer.poll(_POLL_SECONDS)
        if message is None:
            if time.monotonic() > deadline:
                self._cursor = None
                raise LogUnavailable("Kafka: the brokers do not answer")
            return None
        error = message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            return message
        if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            return None
        self._cursor = None
        self._lows.clear()
        raise unavailable(error)
