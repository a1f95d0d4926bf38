"""The projector: each event once, whatever is delivered again, dies in between, or cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from codebank.eventlog.log import NewRecord, partition_of, partition_of_account
from codebank.events import PAYMENTS_TOPIC, STATEMENT_GROUP
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from codebank.statement import applying
from codebank.statement.app import run_projector
from codebank.statement.applying import Batch, SequenceGap
from codebank.statement.dead_letters import read_dead_letters, replay
from codebank.statement.excuse import Excuses
from codebank.statement.line import line_of
from codebank.statement.projector import PositionLost, Projector
from codebank.statement.store import projecting as store
from codebank.statement.store.projecting import StatementMoved
from codebank.wire import utc_now
from tests.conftest import Databases
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk, payment_id, record_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


def a_story() -> Story:
    return Story().opened().paid(1000).declined(500).paid(700).returned(2, 1000)


EXPECTED = [(2, "refunded", 1000), (3, "declined", 500), (4, "approved", 700)]


async def test_events_become_lines_and_the_accounts_state(desk: Desk) -> None:
    await desk.append(*a_story().events)

    await desk.project()

    assert await desk.lines() == EXPECTED
    account = await desk.pool.fetchrow("select used_minor, sequence from account")
    assert tuple(account or ()) == (700, 5)


@pytest.mark.parametrize("batch_max", [1, 2, 12, 500])
async def test_any_size_of_batch_gives_the_same_lines(desk: Desk, batch_max: int) -> None:
    await desk.append(*a_story().events)

    await desk.project(batch_max)

    assert await desk.lines() == EXPECTED


async def test_trap_b23_what_is_delivered_again_adds_no_line(desk: Desk) -> None:
    story = a_story()
    await desk.append(*story.events)
    await desk.project()

    await desk.append(*story.events, *story.events[2:])
    await desk.project()

    assert await desk.lines() == EXPECTED
    assert await desk.behind() == 0


@given(st.data())
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_redelivered_from_anywhere_the_state_is_the_same(data: st.DataObject) -> None:
    events = a_story().events
    delivered = list(events)
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(events) - 1))
        delivered += events[start:]

    batch = Batch({}, Excuses({}))
    for event in delivered:
        applying.add(batch, event, line_of(event))

    assert batch.applied == events
    assert {line.payment_id: line.status for line in batch.lines.values()} == {
        event.payment.payment_id: event.payment.status for event in events if hasattr(event, "payment")
    }


async def test_trap_b20_a_new_group_reads_from_the_beginning(desk: Desk) -> None:
    await desk.append(*a_story().events)

    stop = asyncio.Event()
    running = asyncio.create_task(desk.projector().run(stop))
    async with asyncio.timeout(8):
        while await desk.behind():
            await asyncio.sleep(0.01)
    stop.set()
    await running

    assert await desk.lines() == EXPECTED


async def test_a_crash_between_lines_and_position_leaves_neither(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.append(*a_story().events, NewRecord(str(ANA).encode(), b"what must be put aside", {}))
    real = applying._write

    async def die(*arguments: Any) -> None:
        await real(*arguments)
        raise ConnectionResetError("killed before the commit")

    monkeypatch.setattr(applying, "_write", die)
    with pytest.raises(ConnectionResetError):
        await desk.project()
    assert await desk.lines() == []
    monkeypatch.undo()

    await desk.project()

    assert await desk.lines() == EXPECTED


async def test_partitions_that_are_read_together_are_stored_together(desk: Desk) -> None:
    assert partition_of(str(ANA).encode()) != partition_of(str(BIA).encode())
    await desk.append(*a_story().events, *Story(BIA).opened().paid(50).events)

    await desk.project()

    transactions = "select xmin::text from line union select xmin::text from position where next_offset > 0"
    written = await desk.pool.fetch(transactions)
    assert len(written) == 1


async def test_a_crash_before_the_commit_leaves_nothing_of_any_partition(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.append(*a_story().events, *Story(BIA).opened().paid(50).events)
    real = store.write_batch

    async def die(connection: asyncpg.Connection, *arguments: Any) -> None:
        async with connection.transaction():
            await real(connection, *arguments)
            raise ConnectionResetError("killed before the commit")

    with monkeypatch.context() as patch:
        patch.setattr("codebank.statement.store.projecting.write_batch", die)
        with pytest.raises(ConnectionResetError):
            await desk.project()
    assert await desk.lines() + await desk.lines(BIA) == []

    await desk.project()

    assert await desk.lines() == EXPECTED
    assert await desk.lines(BIA) == [(2, "approved", 50)]


async def test_what_another_wrote_since_the_accounts_were_read_is_neither_lost_nor_written_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here an operator applies a dead letter, between what the projector reads and what it writes."""
    story = a_story()
    await desk.append(*story.events[:2])
    await desk.project()
    await desk.append(*story.events[2:])
    real, event = store.read_sequences, story.events[2]

    async def read_too_early(connection: asyncpg.Connection, accounts: Any) -> dict[UUID, int]:
        found = await real(connection, accounts)
        monkeypatch.undo()
        async with desk.pool.acquire() as another, another.transaction():
            await applying.apply_late(another, event, line_of(event))
        return found

    monkeypatch.setattr("codebank.statement.store.projecting.read_sequences", read_too_early)
    await desk.project()

    assert await desk.lines() == EXPECTED
    sample = desk.telemetry.registry.get_sample_value
    assert sample("codebank_projector_events_total", {"type": "codebank.payment.declined"}) is None


async def test_a_member_that_lost_its_partition_cannot_write(desk: Desk) -> None:
    await desk.append(*a_story().events)
    projector = desk.projector("slow")
    reader = await desk.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, "slow", projector._positions)
    records = await reader.read(500, 5)
    await reader.close()

    await desk.project()  # another member took over and read further
    with pytest.raises(StatementMoved):
        await projector._store_together([records])
    with pytest.raises(PositionLost):
        await projector._store(records)

    assert await desk.lines() == EXPECTED


POISON = [
    NewRecord(str(ANA).encode(), b"not json", {"ce_type": "codebank.payment.approved", "ce_id": "x"}),
    NewRecord(str(ANA).encode(), b"{}", {"ce_type": "codebank.payment.approved", "ce_id": "x"}),
    NewRecord(str(ANA).encode(), b"{}", {"ce_type": "codebank.payment.exploded"}),
    NewRecord(b"\xff\xfe", b"\x00\x01", {}),
    NewRecord(b"another program", b'{"hello": "world"}', {"content-type": "application/json"}),
]


async def test_trap_b21_what_cannot_be_read_is_put_aside_with_its_reason_and_the_others_go_on(desk: Desk) -> None:
    story = a_story()
    await desk.append(*story.events[:2], *POISON, *story.events[2:])

    await desk.project()

    letters = await desk.pool.fetch("select reason, value from dead_letter")
    assert sorted(letter["value"] for letter in letters) == sorted(record.value for record in POISON)
    assert all(letter["reason"] for letter in letters)
    assert await desk.lines() == EXPECTED
    assert desk.telemetry.registry.get_sample_value("codebank_dead_letters_total") == len(POISON)


UNSTORABLE = [
    {"description": "a\0b"}, {"parcelas": 2**40}, {"refunded_minor": 2**63},
    {"created_at": datetime(1, 1, 1, tzinfo=UTC)}, {"created_at": datetime(2026, 11, 20, 15)},  # noqa: DTZ001
]  # fmt: skip


@pytest.mark.parametrize("changes", UNSTORABLE)
async def test_trap_c03_what_decodes_and_cannot_be_shown_or_stored_is_put_aside_and_nothing_waits_behind_it(
    desk: Desk, changes: dict[str, Any]
) -> None:
    story = Story().opened().paid(1000).paid(500, **changes).paid(700)
    other = Story(BIA).opened().paid(50)
    await desk.append(*story.events, *other.events)

    await desk.project()

    assert await desk.lines() == [(2, "approved", 1000), (4, "approved", 700)]
    assert await desk.lines(BIA) == [(2, "approved", 50)]
    (dead,) = await read_dead_letters(desk.pool)
    assert re.match("(it cannot be stored|no line can be made of it): ", dead.reason)
    (again,) = await replay(desk.pool, None)
    assert again.outcome == dead.reason


async def test_an_event_that_could_not_be_read_does_not_stop_its_account_but_stays_on_record(desk: Desk) -> None:
    events = a_story().events
    broken = record_of(events[2])
    await desk.append(*events[:2], NewRecord(broken.key, broken.value[:-9], broken.headers), *events[3:])

    await desk.project()

    assert await desk.lines() == [EXPECTED[0], EXPECTED[2]]
    assert await desk.pool.fetchval("select count(*) from dead_letter") == 1


async def test_a_missing_event_stops_only_its_own_partition_and_says_so(desk: Desk) -> None:
    assert partition_of(str(ANA).encode()) != partition_of(str(BIA).encode())
    ana, bia = a_story().events, Story(BIA).opened().paid(50).events
    await desk.append(*ana[:2], *ana[3:], *bia)

    with pytest.raises(SequenceGap, match="event 4 came after 2"):
        await desk.project()
    stop = asyncio.Event()
    running = asyncio.create_task(desk.projector("two").run(stop))
    async with asyncio.timeout(8):
        while await desk.lines(BIA) == [] or desk.telemetry.ready.is_set():
            await asyncio.sleep(0.01)
    stop.set()
    await running

    assert await desk.lines(BIA) == [(2, "approved", 50)]
    assert await desk.lines(ANA) == []


async def test_trap_c01_what_a_newer_bank_says_is_kept_as_it_came_and_the_account_is_what_the_event_says(
    desk: Desk,
) -> None:
    story = Story().opened().paid(1000)
    story.told("codebank.payment.disputed", status="in_dispute", amount_minor=1000, payment_id=payment_id(ANA, 2))
    story.told("codebank.payment.declined", status="declined", decline_code="moon_phase", currency="XTS")
    story.account_told("codebank.account.frozen", status="frozen", used_minor=77)

    await desk.append(*story.events)
    await desk.project()

    rows = await desk.pool.fetch("select status, decline_code, currency from line order by first_sequence")
    assert [tuple(row) for row in rows] == [("in_dispute", None, "BRL"), ("declined", "moon_phase", "XTS")]
    account = await desk.pool.fetchrow("select status, used_minor, sequence from account")
    assert tuple(account or ()) == ("frozen", 77, 5)
    assert await desk.behind() == 0
    assert await read_dead_letters(desk.pool) == []
    sample = desk.telemetry.registry.get_sample_value
    assert sample("codebank_projector_events_total", {"type": "other"}) == 2


async def test_a_newer_event_of_a_payment_changes_its_reason_and_amount_too(desk: Desk) -> None:
    story = Story().opened().told("codebank.payment.held", status="held", amount_minor=900)
    story.told(
        "codebank.payment.declined", status="declined", decline_code="limit_exceeded", amount_minor=800,
        payment_id=payment_id(ANA, 2),
    )  # fmt: skip
    await desk.append(*story.events[:2])
    await desk.project()

    await desk.append(story.events[2])
    await desk.project()

    row = await desk.pool.fetchrow("select first_sequence, status, decline_code, amount_minor from line")
    assert tuple(row or ()) == (2, "declined", "limit_exceeded", 800)


@contextlib.asynccontextmanager
async def running(projector: Projector) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(projector.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait({task})


async def ready(desk: Desk, *, be: bool) -> None:
    async with asyncio.timeout(8):
        while desk.telemetry.ready.is_set() is not be:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["projector.ship_dead_letters", "projector.apply_plainly"])
async def test_trap_c02_an_error_that_nobody_expected_ends_the_role(
    desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def stumble(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(f"codebank.statement.{where}", stumble)
    await desk.append(*a_story().events)

    role = asyncio.create_task(run_projector(settings, desk.telemetry, asyncio.Event()))
    done, _ = await asyncio.wait({role}, timeout=8)

    assert done == {role}
    with pytest.raises(ZeroDivisionError):
        role.result()


async def test_trap_c07_a_database_that_turned_read_only_is_an_outage_and_its_connections_are_thrown_away(
    desk: Desk, databases: Databases
) -> None:
    name = databases.names["statement"]
    keeper = await connect(databases.server.dsn(name, "postgres"))
    others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    async with running(desk.projector()) as task:
        await ready(desk, be=True)
        # What was a primary is a stand-by now: whoever comes finds a server that cannot write.
        await keeper.execute(f"alter database {name} set default_transaction_read_only = on")
        await keeper.execute(f"select pg_terminate_backend(pid) {others}")
        await desk.append(*a_story().events)
        await ready(desk, be=False)
        held = await keeper.fetchval(f"select count(*) {others} and state = 'idle in transaction'")

        await keeper.execute(f"alter database {name} reset default_transaction_read_only")
        await ready(desk, be=True)
        async with asyncio.timeout(8):
            while await desk.lines() != EXPECTED:
                await asyncio.sleep(0.01)

        assert not task.done()
    assert held == 0
    await keeper.close()


async def test_trap_c07_a_full_disk_is_waited_out(desk: Desk) -> None:
    await desk.pool.execute(
        "create function full_disk() returns trigger language plpgsql as $$"
        " begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$;"
        "create trigger full_disk before insert on line execute function full_disk()"
    )
    await desk.append(*a_story().events)
    async with running(desk.projector()) as task:
        await ready(desk, be=True)
        await ready(desk, be=False)
        await desk.pool.execute("drop trigger full_disk on line; drop function full_disk")

        async with asyncio.timeout(8):
            while await desk.lines() != EXPECTED:
                await asyncio.sleep(0.01)
        await ready(desk, be=True)

        assert not task.done()


async def test_a_projector_without_its_database_is_not_ready_though_nothing_comes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(desk.projector()):
        await ready(desk, be=True)
        with monkeypatch.context() as patch:

            async def away(*_arguments: object) -> None:
                raise ConnectionRefusedError("nobody listens")

            patch.setattr("codebank.statement.store.projecting.mark_caught_up", away)
            await ready(desk, be=False)

        await ready(desk, be=True)


async def test_trap_c08_a_clock_set_back_does_not_hide_how_far_behind_the_statement_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    projector = desk.projector()
    await desk.append(*a_story().events)
    reader = await desk.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, "one", projector._positions)
    await reader.read(1, 5)
    projector._whole_until[partition_of_account(ANA)] = now + timedelta(hours=1)
    lag = partial(
        desk.telemetry.registry.get_sample_value,
        "codebank_projector_lag_seconds",
        {"partition": str(partition_of_account(ANA))},
    )

    await projector._report_lag(reader)
    assert lag() == 0
    monkeypatch.setattr("codebank.statement.projector.utc_now", lambda: now + timedelta(seconds=45))
    await projector._report_lag(reader)

    assert 40 < (lag() or 0) <= 45
    await reader.close()


async def test_three_projectors_share_the_work_and_one_that_dies_is_replaced(desk: Desk) -> None:
    accounts = [UUID(int=number) for number in range(1, 40)]
    stops = [asyncio.Event() for _ in range(3)]
    running = [
        asyncio.create_task(desk.projector(f"member-{number}", batch_max=20).run(stop))
        for number, stop in enumerate(stops)
    ]
    stories = [Story(account).opened() for account in accounts]
    for story in stories:
        for amount in range(1, 10):
            story.paid(amount)

    for first, last in pairwise(range(0, 12, 3)):
        await desk.append(*(event for story in stories for event in story.events[first:last]))
    running[0].cancel()  # dies without leaving the group
    await desk.append(*(event for story in stories for event in story.events[9:]))
    async with asyncio.timeout(10):
        while await desk.behind():
            await asyncio.sleep(0.02)
    for stop in stops[1:]:
        stop.set()
    await asyncio.gather(*running, return_exceptions=True)

    for account in accounts:
        assert await desk.lines(account) == [(number + 1, "approved", number) for number in range(1, 10)]
