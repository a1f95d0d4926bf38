"""Leadership is a lease: a relay that hangs keeps nobody out, and does no harm when it wakes."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
from pathlib import Path

import asyncpg
import pytest

from codebank.eventlog import outbox
from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.outbox import LeaderSign
from codebank.eventlog.relay import Relay
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import connect, connected, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from tests.conftest import Databases
from tests.eventlog.test_relay import ACCOUNTS, add_events, drained, on_log, open_accounts, sequences, until
from tests.system import RoleProcess, own_server, role_process

pytestmark = pytest.mark.anyio


async def leader_of(relays: list[RoleProcess]) -> RoleProcess:
    async with asyncio.timeout(15):
        while True:
            for relay in relays:
                if await relay.metric("codebank_relay_leading") == 1:
                    return relay
            await asyncio.sleep(0.05)


async def test_trap_c05_a_relay_that_hangs_is_replaced_and_does_no_harm_when_it_wakes(folder: Path) -> None:
    chance = random.Random(2026)
    numbers = itertools.count(2)
    async with (
        own_server(folder / "state", relay_lease_seconds=1) as environment,
        role_process("relay", environment) as one,
        role_process("relay", environment) as other,
    ):
        settings = Settings.load(environment)
        bank = await connect(settings.database_url("bank"))
        pool = await open_pool(settings.database_url("log"))
        log = LocalLog(pool, settings.database_url("log"))
        await open_accounts(bank)

        leader = await leader_of([one, other])
        for _ in range(4):
            stand_by = other if leader is one else one
            for number in itertools.islice(numbers, 10):
                await add_events(bank, number, 1)
            await asyncio.sleep(chance.random() / 50)  # anywhere in its work
            leader.signal(signal.SIGSTOP)
            for number in itertools.islice(numbers, 5):
                await add_events(bank, number, 1)
            await until(lambda: drained(bank), seconds=15)
            assert await stand_by.metric("codebank_relay_leading") == 1
            leader.signal(signal.SIGCONT)
            leader = stand_by

        last = next(numbers)
        await add_events(bank, last, 1)
        await until(lambda: drained(bank), seconds=15)
        found = [record for record in await on_log(log) if record.key.decode() in {str(item) for item in ACCOUNTS}]
        await bank.close()
        await pool.close()

    assert len({record.headers["ce_id"] for record in found}) == len(found)
    assert sequences(found) == {str(account): list(range(1, last + 1)) for account in ACCOUNTS}


@pytest.fixture
async def leader(databases: Databases) -> asyncpg.Connection:
    connection = await databases.connect("bank")
    assert await outbox.take_lead(connection)
    return connection


async def test_a_leader_that_makes_itself_heard_is_never_deposed(
    databases: Databases, leader: asyncpg.Connection
) -> None:
    async with connected(databases.dsn("bank"), role="relay") as stand_by:
        sign = await outbox.leader_sign(stand_by)
        assert sign is not None
        await outbox.backlog(leader)

        assert not await outbox.depose(stand_by, sign)
        assert not await outbox.take_lead(stand_by)
    await leader.close()


async def test_a_leader_that_is_silent_is_deposed_with_whatever_it_holds(
    databases: Databases, leader: asyncpg.Connection
) -> None:
    async with connected(databases.dsn("bank"), role="relay") as stand_by:
        sign = await outbox.leader_sign(stand_by)

        assert sign is not None
        assert await outbox.depose(stand_by, sign)
        await until(lambda: outbox.take_lead(stand_by))
        assert await outbox.leader_sign(stand_by) != sign
        await until(lambda: is_closed(leader))


async def is_closed(connection: asyncpg.Connection) -> bool:
    return connection.is_closed()


async def test_a_leader_of_the_release_before_which_knows_of_no_lease_leads_while_it_is_heard(
    databases: Databases, log: LocalLog, leader: asyncpg.Connection
) -> None:
    stand_by, stop = Relay(databases.dsn("bank"), log, Telemetry(METRICS), lease_seconds=1), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(stand_by.run(stop))
        for _ in range(25):
            await outbox.backlog(leader)
            await asyncio.sleep(0.1)
        assert not leader.is_closed()

        await until(lambda: is_closed(leader))
        await until(lambda: leads(stand_by))
        stop.set()


async def leads(relay: Relay) -> bool:
    return relay.telemetry.registry.get_sample_value("codebank_relay_leading") == 1


async def test_nobody_is_deposed_where_nobody_leads(databases: Databases, leader: asyncpg.Connection) -> None:
    async with connected(databases.dsn("bank"), role="relay") as stand_by:
        sign = await outbox.leader_sign(stand_by)
        assert isinstance(sign, LeaderSign)
        await leader.close()
        await until(lambda: outbox.take_lead(stand_by))

        assert not await outbox.depose(stand_by, sign)
