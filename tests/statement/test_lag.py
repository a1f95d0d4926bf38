"""How far the statement is behind: of every partition somebody tells, and a position past the log's end is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from codebank.eventlog.log import partition_of_account
from codebank.events import PAYMENTS_TOPIC, STATEMENT_GROUP
from codebank.settings import Settings
from codebank.statement.lag import Behind, Lag
from tests.statement.desk import ANA, Desk, Story, open_desk

pytestmark = pytest.mark.anyio
NOON = datetime(2026, 11, 20, 15, tzinfo=UTC)
PARTITION = partition_of_account(ANA)


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


def sample(desk: Desk, name: str) -> float | None:
    labels = {"partition": str(PARTITION)} if name.startswith("projector_lag") else {}
    return desk.telemetry.registry.get_sample_value(f"codebank_{name}", labels)


async def test_a_partition_that_nobody_reads_is_behind_like_any_other(desk: Desk) -> None:
    await desk.append(*Story().opened().paid(1).paid(2).events)
    projector = desk.projector()
    # It has joined the group, and was given nothing.
    reader = await desk.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, "idle", projector._positions)
    assert reader.assigned == frozenset()

    await projector._report_lag(reader)

    assert sample(desk, "projector_lag_events") == 3


async def test_trap_c11_a_position_past_the_logs_end_is_an_error_and_not_ready(desk: Desk) -> None:
    await desk.append(*Story().opened().paid(1).events)
    await desk.project()
    projector, stop = desk.projector(), asyncio.Event()
    # The topic was made anew, and the positions are of the one before.
    await desk.pool.execute("update position set next_offset = 50 where partition = $1", PARTITION)
    running = asyncio.create_task(projector.run(stop))
    async with asyncio.timeout(8):
        while sample(desk, "projector_positions_beyond") != 1:
            await asyncio.sleep(0.01)

    assert not desk.telemetry.ready.is_set()
    assert sample(desk, "projector_lag_events") == 2

    # Somebody has the statement read what is there.
    await desk.pool.execute("update position set next_offset = 0 where partition = $1", PARTITION)
    async with asyncio.timeout(8):
        while sample(desk, "projector_positions_beyond") != 0 or not desk.telemetry.ready.is_set():
            await asyncio.sleep(0.01)
    stop.set()
    await running


async def test_a_projector_that_begins_anew_knows_since_when_a_partition_is_behind(desk: Desk) -> None:
    await desk.append(*Story().opened().events)
    await desk.pool.execute(
        "insert into freshness (partition, caught_up_at) values ($1, clock_timestamp() - interval '90 seconds')",
        PARTITION,
    )
    projector = desk.projector()
    reader = await desk.log.open_reader(PAYMENTS_TOPIC, STATEMENT_GROUP, "idle", projector._positions)

    await projector._report_lag(reader)

    assert 90 <= (sample(desk, "projector_lag_seconds") or 0) < 100


def looks(lag: Lag, *seen: tuple[int, int, int], assigned: frozenset[int] = frozenset()) -> list[Behind]:
    """Look at partition 0 at so many seconds after noon, with this position and this end."""
    return [
        lag.look({0: end}, {0: position}, assigned, {}, NOON + timedelta(seconds=seconds))[0]
        for seconds, position, end in seen
    ]


def test_the_age_of_what_another_reads_is_bounded_by_what_it_has_passed() -> None:
    found = looks(Lag({}), (0, 10, 10), (10, 10, 30), (20, 30, 60), (30, 60, 90), (40, 60, 95), (100, 60, 99))

    assert [one.events for one in found] == [0, 20, 30, 30, 35, 39]
    # What was there at 10 s was passed by 20 s; what was there at 20 s, by 30 s; then nothing was stored any more.
    assert [one.age_seconds for one in found] == [0, 10, 10, 10, 20, 80]
    assert not any(one.is_beyond for one in found)


def test_one_position_past_the_end_may_be_a_broker_that_is_behind() -> None:
    found = looks(Lag({}), (0, 10, 10), (1, 10, 4), (2, 10, 10), (3, 10, 4), (4, 10, 4), (5, 10, 4))

    assert [one.is_beyond for one in found] == [False, False, False, False, True, True]
    assert [one.events for one in found] == [0, 4, 0, 4, 4, 4]
    assert found[-1].age_seconds == 3


def test_a_moment_ahead_of_the_clock_counts_from_now() -> None:
    lag = Lag({0: NOON + timedelta(hours=1)})

    found = looks(lag, (0, 1, 2), (45, 1, 2), assigned=frozenset({0}))

    assert [one.age_seconds for one in found] == [0, 45]
