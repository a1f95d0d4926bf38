"""The log on Kafka keeps the port's promises, and survives what happens to its brokers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Collection, Iterator, Mapping

import pytest
from confluent_kafka import Producer

from codebank.eventlog.kafka.log import KafkaLog
from codebank.eventlog.kafka.reader import Silence
from codebank.eventlog.kafka.topics import recreate_topics
from codebank.eventlog.log import LogUnavailable, partition_of
from codebank.events import DEAD_LETTERS_TOPIC, PAYMENTS_TOPIC
from codebank.settings import Settings
from codebank.statement.dead_letters import DeadLetter, Origin, record_of
from codebank.wire import utc_now
from tests.eventlog.conformance import TOPIC, LogConformance, join, leave_all, read_until, record, whole
from tests.kafka.machine import Machine

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(90, func_only=True)]

#: With its key and its frame, as much as a topic takes.
_LARGEST_BYTES = 1_048_588 - 100


@pytest.fixture
async def log(brokers: Machine) -> AsyncIterator[KafkaLog]:
    await recreate_topics(brokers.settings)
    made = KafkaLog(brokers.settings, Silence(session_seconds=2, idle_seconds=2))
    yield made
    await leave_all()
    await made.close()


class TestKafkaLog(LogConformance):
    """The log on three brokers."""


async def test_a_batch_that_was_left_open_is_never_read(log: KafkaLog) -> None:
    old = await log.open_writer(TOPIC)
    await old.append([record("key", 1)])
    # As one that dies between the records and the commit.
    await old._lane.try_run(old._produce, [record("key", 2)])
    await old._lane.try_run(old._producer.flush, 10)

    new = await log.open_writer(TOPIC)
    await new.append([record("key", 3)])

    assert [item.value for item in await whole(log, partition_of(b"key"))] == [b"1", b"3"]
    assert [item.value for item in await new.tail(2)] == [b"1", b"3"]
    assert [item.value for item in await read_until(await join(log, "g"), 2)] == [b"1", b"3"]


async def test_a_record_of_another_program_is_told_whatever_it_holds(log: KafkaLog, brokers: Machine) -> None:
    producer = Producer({"bootstrap.servers": brokers.settings.kafka})
    producer.produce(TOPIC, value=None, key=None, partition=3, headers=[("a", None), ("b", b"\xff\x00")])
    producer.produce(TOPIC, value=b"\xff", key=b"\xfe", partition=3)
    assert producer.flush(10) == 0

    found = await read_until(await join(log, "g"), 2)

    assert [(item.key, item.value) for item in found] == [(b"", b""), (b"\xfe", b"\xff")]
    assert found[0].headers == {"a": "", "b": "\\xff\\x00"}


@pytest.mark.parametrize(("letter", "bytes_more"), [(b"\0", 3_000_000), (b"", 0)], ids=["compressed", "plain"])
async def test_whatever_a_topic_takes_its_dead_letters_take_too(
    log: KafkaLog, brokers: Machine, letter: bytes, bytes_more: int
) -> None:
    plain = random.Random(1).randbytes(_LARGEST_BYTES - (bytes_more and 500_000))
    producer = Producer(
        {"bootstrap.servers": brokers.settings.kafka, "message.max.bytes": 8_000_000, "compression.type": "lz4"}
    )
    producer.produce(PAYMENTS_TOPIC, value=plain + letter * bytes_more, key=b"key", partition=3)
    assert producer.flush(10) == 0
    (found,) = await read_until(await join(log, "g"), 1)
    dead = DeadLetter(
        Origin(found.topic, found.partition, found.offset),
        "statement",
        "x" * 500,
        found.key,
        found.value,
        {},
        utc_now(),
    )

    writer = await log.open_writer(DEAD_LETTERS_TOPIC)
    await writer.append([record_of(dead)])

    (kept,) = await writer.tail(1)
    assert kept.value == found.value
    await writer.close()


async def test_a_position_that_is_not_on_the_log_is_told_never_skipped(log: KafkaLog) -> None:
    async def beyond(partitions: Collection[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 1000)

    reader = await log.open_reader(TOPIC, "g", "m", beyond)
    with pytest.raises(LogUnavailable, match="_AUTO_OFFSET_RESET"):
        await read_until(reader, 1)
    await reader.close()


async def test_a_topic_that_is_missing_says_what_makes_it(brokers: Machine) -> None:
    log = KafkaLog(brokers.settings)
    with pytest.raises(LogUnavailable, match="codebank topics"):
        await log.ends("codebank.nowhere")
    await log.close()


async def test_positions_that_cannot_be_read_make_the_member_join_anew(log: KafkaLog) -> None:
    await (await log.open_writer(TOPIC)).append([record("key", 1)])
    answers: Iterator[OSError | dict[int, int]] = iter([OSError("the database is down"), {}])

    async def positions(_partitions: Collection[int]) -> Mapping[int, int]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    reader = await log.open_reader(TOPIC, "g", "m", positions)
    with pytest.raises(OSError, match="the database is down"):
        await read_until(reader, 1)

    assert [item.value for item in await read_until(reader, 1)] == [b"1"]
    await reader.close()


async def test_the_leader_of_a_partition_dies_while_a_batch_is_on_its_way(log: KafkaLog, brokers: Machine) -> None:
    writer = await log.open_writer(TOPIC)
    await writer.append([record("key", 0)])
    partition = partition_of(b"key")
    reader = await join(log, "g")
    await read_until(reader, 1)
    leader = {place.partition: place.leader for place in (await log.layout(TOPIC)).partitions}[partition]

    brokers.processes[f"kafka-{leader}"].kill()
    for number in range(1, 20):
        try:
            await writer.append([record("key", number)])
        except LogUnavailable:
            # What the relay does: a new writer, and a look at the tail.
            writer = await log.open_writer(TOPIC)
            if str(number).encode() not in {item.value for item in await writer.tail(10)}:
                await writer.append([record("key", number)])

    # A member that lost its coordinator for too long begins anew, where the position was kept: nowhere, here.
    seen: list[bytes] = []
    async with asyncio.timeout(30):
        while b"19" not in seen:
            seen += [item.value for item in await reader.read(500, 0.5) if item.value not in seen]
    assert [value for value in seen if value != b"0"] == [str(number).encode() for number in range(1, 20)]
    assert [item.value for item in await whole(log, partition)] == [str(number).encode() for number in range(20)]
    places = {place.partition: place for place in (await log.layout(TOPIC)).partitions}
    assert leader not in places[partition].in_sync
    assert places[partition].leader not in (None, leader)
    await asyncio.to_thread(brokers.ensure, "kafka-1", "kafka-2", "kafka-3")


async def test_without_brokers_everything_says_so_and_goes_on_when_they_are_back(
    log: KafkaLog, brokers: Machine
) -> None:
    names = ("kafka-1", "kafka-2", "kafka-3")
    writer = await log.open_writer(TOPIC)
    await writer.append([record("key", 1)])
    reader = await join(log, "g")
    await read_until(reader, 1)
    for name in names:
        brokers.processes[name].kill()

    with pytest.raises(LogUnavailable):
        await writer.append([record("key", 2)])
    with pytest.raises(LogUnavailable):
        await log.ends(TOPIC)
    assert await reader.read(10, 0.5) == []
    with contextlib.suppress(LogUnavailable):
        await writer.close()

    await asyncio.to_thread(brokers.ensure, *names)
    writer = await log.open_writer(TOPIC)
    if b"2" not in {item.value for item in await writer.tail(5)}:
        await writer.append([record("key", 2)])
    async with asyncio.timeout(60):
        while b"2" not in [item.value for item in await reader.read(500, 0.5)]:
            pass
    assert [item.value for item in await whole(log, partition_of(b"key"))] == [b"1", b"2"]


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "nowhere.invalid:9092"])
async def test_an_address_without_a_broker_is_no_riddle(wrong: str) -> None:
    log = KafkaLog(Settings(kafka=wrong))
    with pytest.raises(LogUnavailable, match="Kafka"):
        await log.members(TOPIC)
    await log.close()
