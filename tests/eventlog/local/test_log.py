"""The embedded log keeps the port's promises, and survives what happens to its database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.log import PARTITIONS, Reader, partition_of
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import open_pool
from tests.conftest import Databases
from tests.eventlog.conformance import TOPIC, LogConformance, join, leave_all, read_until, record, whole


@pytest.fixture
async def log(databases: Databases) -> AsyncIterator[LocalLog]:
    pool = await open_pool(databases.dsn("log"))
    yield LocalLog(pool, databases.dsn("log"), member_timeout_seconds=1)
    await leave_all()
    await pool.close()


class TestLocalLog(LogConformance):
    """The embedded log."""


@pytest.mark.anyio
async def test_a_reader_survives_the_loss_of_its_connections(log: LocalLog, databases: Databases) -> None:
    writer = await log.open_writer(TOPIC)
    reader = await join(log, "g")
    await writer.append([record("key", 1)])
    await read_until(reader, 1)

    keeper = await databases.connect("log")
    await keeper.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    await keeper.close()

    # The writer may be told of the loss as well, before anything was written.
    with contextlib.suppress(*OUTAGES):
        await writer.append([record("key", 2)])
    if b"2" not in {item.value for item in await whole(log, partition_of(b"key"))}:
        await writer.append([record("key", 2)])
    found: list[bytes] = []
    for _ in range(20):
        # It may be told of the loss once or twice; calling it again is all that is asked of it. It keeps no
        # positions here, so it may begin again, but leaves nothing out.
        with contextlib.suppress(*OUTAGES):
            found += [item.value for item in await reader.read(10, 0.2)]
        if b"2" in found:
            break
    assert found in ([b"2"], [b"1", b"2"])


@pytest.mark.anyio
async def test_a_failed_append_leaves_nothing(log: LocalLog) -> None:
    writer = await log.open_writer(TOPIC)
    bad = record("key", 2)
    broken = type(bad)(bad.key, bad.value, {"header": "\x00"})  # jsonb holds no NUL

    with pytest.raises(Exception, match="unsupported Unicode"):
        await writer.append([record("key", 1), broken])

    assert sum((await log.ends(TOPIC)).values()) == 0


@pytest.mark.anyio
async def test_trap_c08_a_dead_member_is_not_believed_alive_after_the_clock_was_set_back(
    log: LocalLog, databases: Databases
) -> None:
    """What it wrote before is then ahead of now, by an hour."""
    dead = await join(log, "g")
    await read_nothing(dead)
    assert len(dead.assigned) == PARTITIONS
    keeper = await databases.connect("log")
    await keeper.execute("update member set heard_at = clock_timestamp() + interval '1 hour'")
    await keeper.close()
    assert [member.silent_milliseconds for member in await log.members(TOPIC)] == [0]

    heir = await join(log, "g")
    async with asyncio.timeout(8):
        while len(heir.assigned) < PARTITIONS:
            await read_nothing(heir)


async def read_nothing(reader: Reader) -> None:
    assert await reader.read(10, 0.05) == []
