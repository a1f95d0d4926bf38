"""`bench flow`: pages that note what they are shown, processor time by role, no figure where anything is doubled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from codebank.errors import CodebankError
from codebank.eventlog.log import NewRecord
from codebank.lab.arrivals import on_log
from codebank.lab.meters import UPKEEP, Meters, read_meters
from codebank.lab.pages import Page, open_pages
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import HealthServer, Telemetry
from codebank.settings import Settings
from codebank.statement.app import open_statement
from codebank.statement.live import Hub
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk, payment_id, record_of
from tests.system import free_port, served

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


async def test_each_payment_is_found_on_the_log_with_its_place_among_its_accounts_events(desk: Desk) -> None:
    await desk.append(*Story().opened().paid(100).paid(200).events, NewRecord(b"?", b"another program's", {}))
    wanted = {str(payment_id(ANA, 2)), str(payment_id(ANA, 3))}

    found = await on_log(desk.log, wanted, {})

    assert {name: (one.account_id, one.sequence) for name, one in found.items()} == {
        str(payment_id(ANA, number)): (ANA, number) for number in (2, 3)
    }


async def test_a_payment_that_is_on_the_log_twice_leaves_no_figure(desk: Desk) -> None:
    story = Story().opened().paid(100)
    await desk.append(*story.events, record_of(story.events[1]))

    with pytest.raises(CodebankError, match="on the log twice"):
        await on_log(desk.log, {str(payment_id(ANA, 2))}, {})


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Settings, Hub]]:
    """Serve the statement's pages; give settings that name where, and what lets the pages go."""
    async with open_statement(settings, Telemetry(METRICS)) as (app, hub), served(app, hub.close) as port:
        yield Settings(statement_url=f"http://127.0.0.1:{port}"), hub


async def test_pages_are_signed_in_each_for_its_account_and_note_when_they_are_shown_what(
    settings: Settings, desk: Desk
) -> None:
    ana, bia = Story().opened(), Story(BIA).opened()
    await desk.append(*ana.events, *bia.events)
    await desk.project()

    async with serving(settings) as (where, _hub), open_pages(where, desk.pool, [ANA, BIA]) as pages:
        await desk.append(*ana.paid(100).paid(200).events[1:])
        await desk.project()
        async with asyncio.timeout(8):
            while pages[0].shown_at(3) is None:
                await asyncio.sleep(0.01)

    assert [page.account_id for page in pages] == [ANA, BIA]
    assert pages[0].shown_at(2) is not None
    assert pages[0].shown_at(4) is None
    assert (pages[1].sequences, pages[1].shown_at(2)) == ([1], None)


async def test_a_page_that_is_closed_ends_the_run(settings: Settings, desk: Desk) -> None:
    await desk.append(*Story().opened().events)
    await desk.project()

    async def lose_the_pages() -> None:
        async with serving(settings) as (where, hub), open_pages(where, desk.pool, [ANA]):
            hub.close()
            await asyncio.Event().wait()

    with pytest.raises(CodebankError, match="was closed"):
        await lose_the_pages()


def test_a_push_shows_an_event_once_however_its_bytes_come() -> None:
    page = Page(ANA, "token")

    for text in (b"event: lines\nid: 7\ndata: x\n\n", b"id: 7\ndata", b"event: lines\nid: 9b\ndata: y\n\n"):
        page.note(text)

    assert page.sequences == [7, 9]


async def test_every_role_that_answers_and_every_session_of_it_is_metered(settings: Settings, desk: Desk) -> None:
    port = free_port()
    health = HealthServer(Telemetry(METRICS), "127.0.0.1", port)
    health.start()
    try:
        meters = await read_meters(settings, {"projector": port, "relay": free_port()}, desk.pool)
    finally:
        health.stop()

    assert meters.roles.keys() == {"projector"}
    assert meters.roles["projector"] > 0
    assert {"codebank", UPKEEP} <= {name for name, _ in meters.postgres.values()}


def test_what_was_spent_is_the_difference_and_a_new_session_counts_whole() -> None:
    earlier = Meters({"relay": 100}, {1: ("relay", 50), 2: ("bank", 9)})
    later = Meters({"relay": 160}, {1: ("relay", 70), 3: ("relay", 5)})

    spent = later.since(earlier).per(5)

    assert (spent.roles, spent.postgres) == ({"relay": 12}, {"relay": 5})
