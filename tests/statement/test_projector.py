"""The projector: each event once, whatever is delivered again, dies in between, or cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from codebank.eventlog.log import NewRecord, partition_of
from codebank.events import PAYMENTS_TOPIC, STATEMENT_GROUP
from codebank.settings import Settings
from codebank.statement import projector as module
from codebank.statement.projector import PositionLost, SequenceGap, _apply, _Batch
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk, record_of

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

    batch = _Batch({})
    for event in delivered:
        _apply(batch, event)

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
    await desk.append(*a_story().events)
    real = module._write_batch

    async def die(connection: object, batch: object) -> None:
        await real(connection, batch)  # type: ignore[arg-type]
        raise ConnectionResetError("killed before the commit")

    monkeypatch.setattr(module, "_write_batch", die)
    with pytest.raises(ConnectionResetError):
        await desk.project()
    assert await desk.lines() == []
    monkeypatch.undo()

    await desk.project()

    assert await desk.lines() == EXPECTED


async def test_a_member_that_lost_its_partition_cannot_write(desk: Desk) -> None:
    await desk.append(*a_story().events)
    projector = desk.projector("slow")
    reader = await desk.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, "slow", projector._positions)
    records = await reader.read(500, 5)
    await reader.close()

    await desk.project()  # another member took over and read further
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
