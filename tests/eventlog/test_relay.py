"""The relay: each event on the log once, in order per account, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest

from codebank.bank.deciding import Writes
from codebank.bank.operation import OpenAccount
from codebank.bank.seed import carry_out
from codebank.bank.store.writing import write
from codebank.eventlog.local.log import LocalLog, LocalWriter
from codebank.eventlog.log import NewRecord, Record, partition_of
from codebank.eventlog.outbox import backlog
from codebank.eventlog.pace import Pace
from codebank.eventlog.relay import Relay
from codebank.events import ACCOUNT_OPENED, PAYMENTS_TOPIC, AccountEvent, AccountState, AccountStatus
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id, utc_now
from tests.conftest import Databases

pytestmark = pytest.mark.anyio
ACCOUNTS = [UUID(int=number) for number in range(1, 6)]


@pytest.fixture
async def bank(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("bank")
    await open_accounts(connection)
    yield connection
    await connection.close()


async def open_accounts(bank: asyncpg.Connection) -> None:
    for account_id in ACCOUNTS:
        async with bank.transaction():
            await carry_out(
                bank,
                [OpenAccount(account_id=account_id, holder_name="x", currency="BRL", limit_minor=0)],
            )


async def add_events(bank: asyncpg.Connection, first: int, count: int) -> None:
    """Commit events `first` … of every account, one commit each."""
    for sequence in range(first, first + count):
        for account_id in ACCOUNTS:
            state = AccountState(
                holder_name="x", status=AccountStatus.OPEN, currency="BRL", limit_minor=0, used_minor=0
            )
            event = AccountEvent(
                event_id=new_id(), type=ACCOUNT_OPENED, account_id=account_id, sequence=sequence,
                occurred_at=utc_now(), account=state,
            )  # fmt: skip
            await write(bank, Writes(event.occurred_at, events=[event]))


async def on_log(log: LocalLog) -> list[Record]:
    return [record for partition in range(12) for record in await log.scan(PAYMENTS_TOPIC, partition, 0, 100_000)]


def sequences(records: Sequence[Record]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in records:
        found.setdefault(record.key.decode(), []).append(int(record.value.split(b'"sequence":')[1].split(b",")[0]))
    return found


async def until(condition: Callable[[], Awaitable[bool]], seconds: int = 8) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def relaying(databases: Databases, log: LocalLog, batch_max: int = 500) -> AsyncIterator[Relay]:
    relay, stop = Relay(databases.dsn("bank"), log, Telemetry(METRICS), batch_max), asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    yield relay
    stop.set()
    await task


@dataclass
class CrashingLog(LocalLog):
    """A log whose connection is lost right after an append, a few times."""

    crashes: int = 0

    async def open_writer(self, topic: str) -> LocalWriter:
        writer = await super().open_writer(topic)
        return _CrashingWriter(self.pool, topic, writer.epoch, self)


@dataclass
class _CrashingWriter(LocalWriter):
    log: CrashingLog

    async def append(self, records: Sequence[NewRecord]) -> None:
        await super().append(records)
        if self.log.crashes > 0:
            self.log.crashes -= 1
            raise ConnectionResetError("the answer of the log was lost")


async def drained(bank: asyncpg.Connection) -> bool:
    return (await backlog(bank)).events == 0


async def test_events_go_out_once_and_in_order(databases: Databases, log: LocalLog, bank: asyncpg.Connection) -> None:
    await add_events(bank, 2, 20)

    async with relaying(databases, log, batch_max=7):
        await until(lambda: drained(bank))

    assert sequences(await on_log(log)) == {str(account): list(range(1, 22)) for account in ACCOUNTS}


async def test_a_commit_wakes_the_relay(databases: Databases, log: LocalLog, bank: asyncpg.Connection) -> None:
    async with relaying(databases, log):
        await until(lambda: drained(bank))
        await add_events(bank, 2, 1)
        await until(lambda: drained(bank))

    assert sequences(await on_log(log)) == {str(account): [1, 2] for account in ACCOUNTS}


@dataclass
class Gate(Pace):
    """Lets a batch begin when the test says so."""

    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        await self.open.wait()


async def test_what_is_committed_while_a_batch_may_not_begin_goes_together(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection
) -> None:
    relay, stop = Relay(databases.dsn("bank"), log, Telemetry(METRICS), pace=(gate := Gate())), asyncio.Event()
    running = asyncio.create_task(relay.run(stop))
    await add_events(bank, 2, 20)
    assert await on_log(log) == []

    gate.open.set()
    await until(lambda: drained(bank))
    stop.set()
    await running

    assert len(await on_log(log)) == 105
    assert relay.telemetry.registry.get_sample_value("codebank_relay_ship_seconds_count") == 1


async def test_trap_a16_b03_an_event_is_in_the_commit_of_the_money_and_waits_while_the_log_is_down(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection
) -> None:
    await add_events(bank, 2, 10)

    assert (await backlog(bank)).events == 55
    async with relaying(databases, log):
        await until(lambda: drained(bank))

    assert sequences(await on_log(log)) == {str(account): list(range(1, 12)) for account in ACCOUNTS}


@pytest.mark.parametrize("batch_max", [1, 4, 500])
async def test_trap_a17_after_a_crash_between_ship_and_removal_the_log_holds_each_event_once(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection, batch_max: int
) -> None:
    await add_events(bank, 2, 5)
    crashing = CrashingLog(log.pool, log.dsn, 1, crashes=3)

    async with relaying(databases, crashing, batch_max):
        await until(lambda: drained(bank))

    assert crashing.crashes == 0 or batch_max == 500
    found = await on_log(log)
    assert len({record.headers["ce_id"] for record in found}) == len(found) == 30
    assert sequences(found) == {str(account): [1, 2, 3, 4, 5, 6] for account in ACCOUNTS}


async def test_a_stand_by_takes_over_when_the_leader_loses_its_connection(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection
) -> None:
    async with relaying(databases, log), relaying(databases, log):
        for round_number in range(3):
            await add_events(bank, 2 + round_number * 3, 3)
            await bank.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                " and application_name = 'relay' and query not like 'LISTEN%'"
            )
        await until(lambda: drained(bank))

    assert sequences(await on_log(log)) == {str(account): list(range(1, 11)) for account in ACCOUNTS}


@pytest.mark.parametrize("headers", [{}, {"ce_id": "no id of ours"}])
async def test_the_relay_outlives_what_another_program_wrote_on_the_log(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection, headers: dict[str, str]
) -> None:
    writer = await log.open_writer(PAYMENTS_TOPIC)
    await writer.append([NewRecord(b"?", b"?", headers)])
    await writer.close()

    async with relaying(databases, log):
        await until(lambda: drained(bank))

    assert len(await on_log(log)) == len(ACCOUNTS) + 1


async def test_only_one_of_two_relays_leads(databases: Databases, log: LocalLog, bank: asyncpg.Connection) -> None:
    def leading(relay: Relay) -> bool:
        return relay.telemetry.registry.get_sample_value("codebank_relay_leading") == 1

    async with relaying(databases, log) as first, relaying(databases, log) as second:

        async def one_leads() -> bool:
            return leading(first) or leading(second)

        await until(one_leads)
        assert leading(first) != leading(second)


async def test_trap_b22_one_accounts_events_are_on_one_partition_under_its_key(
    databases: Databases, log: LocalLog, bank: asyncpg.Connection
) -> None:
    await add_events(bank, 2, 3)

    async with relaying(databases, log):
        await until(lambda: drained(bank))

    for record in await on_log(log):
        assert record.key.decode() == record.headers["ce_subject"]
        assert record.partition == partition_of(record.key)
