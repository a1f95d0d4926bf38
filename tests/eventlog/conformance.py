"""What every event log must do, written against the port: each implementation runs all of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Mapping
from itertools import count

import pytest

from codebank.eventlog.log import PARTITIONS, EventLog, Fenced, NewRecord, Reader, Record, partition_of
from codebank.events import DEAD_LETTERS_TOPIC, PAYMENTS_TOPIC

TOPIC = PAYMENTS_TOPIC
_names = count(1)
_joined: list[Reader] = []


def record(key: str, number: int) -> NewRecord:
    return NewRecord(key.encode(), str(number).encode(), {"number": str(number)})


async def from_start(partitions: Collection[int]) -> Mapping[int, int]:
    return {}


async def join(log: EventLog, group: str, member: str = "") -> Reader:
    reader = await log.open_reader(TOPIC, group, member or f"member-{next(_names)}", from_start)
    _joined.append(reader)
    return reader


async def leave_all() -> None:
    """Close every reader that a test opened."""
    while _joined:
        await _joined.pop().close()


async def read_until(reader: Reader, wanted: int, seconds: int = 20) -> list[Record]:
    """Read until that many records came."""
    found: list[Record] = []
    async with asyncio.timeout(seconds):
        while len(found) < wanted:
            found += await reader.read(500, 0.5)
    return found


async def whole(log: EventLog, partition: int) -> list[Record]:
    """Read a partition from its start to its end."""
    found: list[Record] = []
    end = (await log.ends(TOPIC, settled=True))[partition]
    while (position := found[-1].offset + 1 if found else 0) < end:
        found += await log.scan(TOPIC, partition, position, 50)
    return found


async def settle(*readers: Reader, shares: list[int], seconds: int = 20) -> None:
    """Read with all members until each has its share."""
    async with asyncio.timeout(seconds):
        while sorted(len(reader.assigned) for reader in readers) != sorted(shares):
            for reader in readers:
                await reader.read(1, 0)
            await asyncio.sleep(0.05)  # lets the members' next heartbeat come due


async def told_shares(log: EventLog, group: str, readers: Mapping[str, Reader], seconds: int = 20) -> None:
    """Ask who reads what until the log tells it as it is: while shares change it may know nothing, or the dead too."""

    async def told() -> dict[str, frozenset[int]]:
        # Others read the topic too, in groups of their own.
        members = await log.members(TOPIC)
        return {member.member: frozenset(member.partitions) for member in members if member.group == group}

    async with asyncio.timeout(seconds):
        while await told() != {name: reader.assigned for name, reader in readers.items()}:
            for reader in readers.values():
                await reader.read(1, 0.05)


class LogConformance:
    """Cases that each implementation inherits; it gives the fixture `log`."""

    pytestmark = pytest.mark.anyio

    async def test_records_of_one_key_keep_their_order_and_partition(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        await writer.append([record(f"key-{number % 7}", number) for number in range(200)])
        await writer.append([record(f"key-{number % 7}", number) for number in range(200, 400)])

        found = await read_until(await join(log, "g"), 400)

        for key in {item.key for item in found}:
            numbers = [int(item.value) for item in found if item.key == key]
            assert numbers == sorted(numbers)
            assert {item.partition for item in found if item.key == key} == {partition_of(key)}

    async def test_offsets_rise_and_each_record_knows_what_it_follows(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        for start in range(0, 90, 30):
            await writer.append([record(f"key-{number}", number) for number in range(start, start + 30)])

        ends = await log.ends(TOPIC, settled=True)

        count = 0
        for partition, end in ends.items():
            found = await whole(log, partition)
            positions = [0, *(item.offset + 1 for item in found)]
            assert [item.follows for item in found] == positions[:-1]
            assert all(item.follows <= item.offset for item in found)
            assert positions[-1] == end
            count += len(found)
        assert count == 90

    async def test_bytes_and_headers_come_back_as_they_were(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        sent = NewRecord(b"\x00\xff", b"\xff\x00not text", {"ce_id": "é", "empty": ""})
        await writer.append([sent])

        found = (await read_until(await join(log, "g"), 1))[0]

        assert (found.key, found.value, dict(found.headers)) == (sent.key, sent.value, sent.headers)

    async def test_appending_nothing_changes_nothing(self, log: EventLog) -> None:
        await (await log.open_writer(TOPIC)).append([])

        assert sum((await log.ends(TOPIC, settled=True)).values()) == 0

    async def test_an_earlier_writer_is_fenced(self, log: EventLog) -> None:
        old = await log.open_writer(TOPIC)
        new = await log.open_writer(TOPIC)

        with pytest.raises(Fenced):
            await old.append([record("key", 1)])
        await new.append([record("key", 2)])

        assert [item.value for item in await read_until(await join(log, "g"), 1)] == [b"2"]
        assert [item.value for item in await whole(log, partition_of(b"key"))] == [b"2"]

    async def test_writers_of_two_topics_do_not_fence_each_other(self, log: EventLog) -> None:
        payments = await log.open_writer(TOPIC)
        letters = await log.open_writer(DEAD_LETTERS_TOPIC)

        await payments.append([record("key", 1)])
        await letters.append([record("key", 2)])

        assert [end for end in (await log.ends(DEAD_LETTERS_TOPIC, settled=True)).values() if end] == [1]

    async def test_the_tail_is_the_end_of_every_partition(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        await writer.append([record(f"key-{number % 30}", number) for number in range(300)])

        tail = await writer.tail(3)

        for partition in await log.ends(TOPIC, settled=True):
            offsets = [item.offset for item in tail if item.partition == partition]
            assert offsets == [item.offset for item in await whole(log, partition)][-3:]

    async def test_the_tail_of_many_small_batches_is_whole(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        for number in range(8):
            await writer.append([record("key", number)])

        assert [item.value for item in await writer.tail(5)] == [b"3", b"4", b"5", b"6", b"7"]

    @pytest.mark.parametrize(("members", "shares"), [(1, [12]), (2, [6, 6]), (3, [4, 4, 4]), (5, [3, 3, 2, 2, 2])])
    async def test_members_share_the_partitions_evenly(self, log: EventLog, members: int, shares: list[int]) -> None:
        readers = [await join(log, "g") for _ in range(members)]

        await settle(*readers, shares=shares)

        owned = [partition for reader in readers for partition in reader.assigned]
        assert sorted(owned) == list(range(PARTITIONS))

    async def test_the_silent_lose_their_partitions(self, log: EventLog) -> None:
        dead, alive = await join(log, "g"), await join(log, "g")
        await settle(dead, alive, shares=[6, 6])

        await settle(alive, shares=[12])

        assert len(alive.assigned) == PARTITIONS

    async def test_one_that_was_silent_too_long_reads_nothing_that_is_anothers(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        sleeper, alive = await join(log, "g"), await join(log, "g")
        await settle(sleeper, alive, shares=[6, 6])
        await settle(alive, shares=[12])
        await writer.append([record(f"key-{number}", number) for number in range(100)])
        taken = await read_until(alive, 100)

        found = await sleeper.read(500, 0)

        assert len(taken) == 100
        assert not {item.partition for item in found} & alive.assigned

    async def test_leaving_frees_the_partitions_at_once(self, log: EventLog) -> None:
        leaving, staying = await join(log, "g"), await join(log, "g")
        await settle(leaving, staying, shares=[6, 6])

        await leaving.close()

        await settle(staying, shares=[12])
        assert leaving.assigned == frozenset()

    async def test_two_groups_read_everything_each(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        await writer.append([record(f"key-{number}", number) for number in range(50)])

        first, second = await read_until(await join(log, "a"), 50), await read_until(await join(log, "b"), 50)

        assert sorted(item.value for item in first) == sorted(item.value for item in second)

    async def test_positions_are_the_readers(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        await writer.append([record("key", number) for number in range(10)])
        partition = partition_of(b"key")
        asked: list[int] = []

        async def positions(partitions: Collection[int]) -> Mapping[int, int]:
            asked.extend(partitions)
            return {partition: 7}

        reader = await log.open_reader(TOPIC, "g", "m", positions)
        _joined.append(reader)
        found = await read_until(reader, 3)

        assert [item.offset for item in found] == [7, 8, 9]
        assert sorted(asked) == list(range(PARTITIONS))

    async def test_replay_from_any_offset(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        await writer.append([record("key", number) for number in range(10)])
        partition = partition_of(b"key")
        reader = await join(log, "g")
        await read_until(reader, 10)

        await reader.seek(partition, 4)
        again = await read_until(reader, 6)

        assert [item.offset for item in again] == [4, 5, 6, 7, 8, 9]
        assert [item.offset for item in await log.scan(TOPIC, partition, 8, 10)] == [8, 9]

    async def test_a_read_is_bounded_and_starves_nobody(self, log: EventLog) -> None:
        writer = await log.open_writer(TOPIC)
        quiet = next(f"quiet-{n}" for n in range(100) if partition_of(f"quiet-{n}".encode()) != partition_of(b"busy"))
        await writer.append([record("busy", 0), record(quiet, 0)])
        reader = await join(log, "g")
        await read_until(reader, 2)  # so that it is at home with the servers of both partitions
        # Six megabytes that do not become less on their way.
        await writer.append([NewRecord(b"busy", secrets.token_bytes(1000), {}) for _ in range(6000)])
        await writer.append([record(quiet, 1)])
        await log.ends(TOPIC, settled=True)  # all of it can be read now

        before = 0
        async with asyncio.timeout(20):
            while True:
                found = await reader.read(120, 5)
                assert len(found) <= 120
                if quiet.encode() in {item.key for item in found}:
                    break
                before += len(found)

        assert before < 5000

    async def test_an_idle_read_ends_with_nothing(self, log: EventLog) -> None:
        assert await (await join(log, "g")).read(10, 0.1) == []

    async def test_who_reads_what_is_told(self, log: EventLog) -> None:
        first, second = await join(log, "g", "one"), await join(log, "g", "two")
        await settle(first, second, shares=[6, 6])

        await told_shares(log, "g", {"one": first, "two": second})
