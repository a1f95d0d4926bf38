"""The statement made anew from the log, while everything runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from codebank.eventlog.log import NewRecord
from codebank.settings import Settings
from codebank.statement.rebuild import rebuild
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


async def contents(desk: Desk) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the log makes of the statement, but for when it was made."""
    found = {}
    for table, columns in {
        "line": "account_id, payment_id, sequence, first_sequence, amount_minor, status, refunded_minor, local_day",
        "account": "account_id, holder_name, used_minor, sequence, updated_at",
        "position": "topic, partition, next_offset",
        "dead_letter": 'topic, partition, "offset", value',
    }.items():
        condition = " where next_offset > 0" if table == "position" else ""
        rows = await desk.pool.fetch(f"select {columns} from {table}{condition} order by 1, 2, 3")
        found[table] = [tuple(row) for row in rows]
    return found


async def test_a_rebuilt_statement_is_the_same(desk: Desk) -> None:
    ana, bia = Story(ANA).opened().paid(100).paid(250), Story(BIA).opened().paid(4_000)
    ana.returned(2, 100).told("codebank.payment.disputed", "in_dispute", decline_code="moon_phase", currency="XTS")
    await desk.append(*ana.events, NewRecord(b"?", b"?", {}), *bia.events)
    await desk.project()
    before = await contents(desk)
    told: list[tuple[int, int, int]] = []

    count = await rebuild(desk.pool, desk.log, lambda *progress: told.append(progress))

    assert count == len(ana.events) + len(bia.events) + 1
    assert [partition for partition, _, _ in told] == list(range(12))
    assert await contents(desk) == before


async def test_what_was_harmed_by_hand_is_whole_again(desk: Desk) -> None:
    story = Story().opened().paid(100).paid(250)
    await desk.append(*story.events)
    await desk.project()
    whole = await contents(desk)
    await desk.pool.execute("delete from line where amount_minor = 100")
    await desk.pool.execute("update account set used_minor = 7")
    await desk.pool.execute("insert into position values ('codebank.payments', 0, 0) on conflict do nothing")

    await rebuild(desk.pool, desk.log, lambda *_: None)

    assert await contents(desk) == whole


async def test_a_projector_that_runs_meanwhile_goes_on_behind_it(desk: Desk) -> None:
    story = Story().opened()
    for _ in range(30):
        story.paid(10)
    stop = asyncio.Event()
    running = [asyncio.create_task(desk.projector(name).run(stop)) for name in ("one", "two")]

    for start in range(0, len(story.events), 5):
        await desk.append(*story.events[start : start + 5])
        await rebuild(desk.pool, desk.log, lambda *_: None)
    async with asyncio.timeout(20):
        while await desk.behind():
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*running)

    assert len(await desk.lines()) == 30
    used = await desk.pool.fetchval("select used_minor from account where account_id = $1", ANA)
    assert used == 300
