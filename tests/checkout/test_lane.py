"""The lane: what arrives while a commit is under way is carried out together, and a bad item harms nobody else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import asyncpg
import pytest

from codebank.checkout.lane import CommitLane
from codebank.runtime.process import background

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    """Doubles numbers, in batches that it remembers; some numbers spoil what they are in."""

    spoilt: dict[int, Exception] = field(default_factory=dict)
    batches: list[list[int]] = field(default_factory=list)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def carry_out(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await self.may_go_on.wait()
        for item in items:
            if item in self.spoilt:
                raise self.spoilt[item]
        return [item * 2 for item in items]


@contextlib.asynccontextmanager
async def lane_of(work: Work, size_max: int = 100) -> AsyncIterator[CommitLane[int, int]]:
    lane: CommitLane[int, int] = CommitLane(work.carry_out, size_max)
    async with background(lane.run()):
        yield lane


async def begun(work: Work, lane: CommitLane[int, int], *items: int) -> list[asyncio.Task[int]]:
    """Submit the first item, and the others once it is under way."""
    tasks = [asyncio.create_task(lane.submit(items[0]))]
    while not work.batches:
        await asyncio.sleep(0)
    tasks += [asyncio.create_task(lane.submit(item)) for item in items[1:]]
    await asyncio.sleep(0)
    return tasks


async def test_what_arrives_while_a_batch_is_under_way_is_the_next_batch() -> None:
    work = Work()
    async with lane_of(work) as lane:
        tasks = await begun(work, lane, 1, 2, 3, 4)
        work.may_go_on.set()

        assert await asyncio.gather(*tasks) == [2, 4, 6, 8]

    # The first found the lane free and waited for nobody.
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_batch_has_its_bound() -> None:
    work = Work()
    async with lane_of(work, size_max=2) as lane:
        tasks = await begun(work, lane, 1, 2, 3, 4)
        work.may_go_on.set()
        await asyncio.gather(*tasks)

    assert work.batches == [[1], [2, 3], [4]]


@pytest.mark.parametrize(
    "error", [ValueError("a bad row"), asyncpg.UniqueViolationError("x"), asyncpg.DeadlockDetectedError("x")]
)
async def test_a_bad_item_harms_none_of_its_neighbours(error: Exception) -> None:
    work = Work({3: error})
    async with lane_of(work) as lane:
        tasks = await begun(work, lane, 1, 2, 3, 4)
        work.may_go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

    assert results == [2, 4, error, 8]
    assert work.batches == [[1], [2, 3, 4], [2], [3], [4]]


async def test_where_the_database_is_away_nobody_is_tried_one_by_one() -> None:
    error = ConnectionResetError("the server went away")
    work = Work({3: error})
    async with lane_of(work) as lane:
        tasks = await begun(work, lane, 1, 2, 3, 4)
        work.may_go_on.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        after = await lane.submit(5)

    assert results == [2, error, error, error]
    assert after == 10
    assert work.batches == [[1], [2, 3, 4], [5]]


async def test_whoever_gives_up_before_the_batch_begins_is_left_out_and_later_disturbs_nobody() -> None:
    work = Work()
    async with lane_of(work) as lane:
        first, second, third = await begun(work, lane, 1, 2, 3)
        first.cancel()
        second.cancel()
        await asyncio.sleep(0)
        work.may_go_on.set()

        assert await third == 6

    assert work.batches == [[1], [3]]
    assert first.cancelled()
    assert second.cancelled()


async def test_nobody_is_left_waiting_for_a_lane_that_ends() -> None:
    work = Work()
    async with lane_of(work) as lane:
        tasks = await begun(work, lane, 1, 2)

    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_lanes_that_take_turns_gather_while_the_other_commits() -> None:
    one, other, turn = Work(), Work(), asyncio.Lock()
    first, second = CommitLane(one.carry_out, 100, turn), CommitLane(other.carry_out, 100, turn)
    other.may_go_on.set()
    async with background(first.run(), second.run()):
        tasks = await begun(one, first, 1)
        tasks += [asyncio.create_task(second.submit(item)) for item in (2, 3)]
        await asyncio.sleep(0)
        assert other.batches == []
        one.may_go_on.set()

        assert await asyncio.gather(*tasks) == [2, 4, 6]

    assert other.batches == [[2, 3]]
