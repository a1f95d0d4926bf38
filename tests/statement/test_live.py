"""Open pages are pushed to: without reload, without a gap, without a double."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Collection
from html import unescape

import pytest

from codebank.eventlog.log import PARTITIONS, partition_of
from codebank.roles import METRICS, ROLES
from codebank.runtime.postgres.pool import connect
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.statement.live import Hub
from tests.conftest import Databases
from tests.statement.desk import ANA, BIA, Story, until
from tests.statement.site import Site, open_site
from tests.system import system_settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    async with open_site(settings) as opened:
        yield opened


@contextlib.asynccontextmanager
async def listening(
    site: Site, after: int, last_event_id: str = "", query: str = "", kinds: Collection[str] = ("lines", "bye")
) -> AsyncIterator[AsyncIterator[tuple[str, str, str]]]:
    """Open a page's stream; give its events as (event, id, data)."""
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    async with site.ana.stream("GET", f"/live?account={ANA}&after={after}{query}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def events() -> AsyncIterator[tuple[str, str, str]]:
            found: dict[str, str] = {}
            async for row in answer.aiter_lines():
                if row == "":
                    if found.get("event") in kinds:
                        yield found["event"], found.get("id", ""), found.get("data", "")
                    found = {}
                name, _, value = row.partition(": ")
                if name in {"event", "id", "data"}:
                    found[name] = f"{found.get(name, '')}{value}"

        yield events()


def amounts(html: str) -> int:
    return len(re.findall(r'<li class="line', html))


async def test_trap_a23_a_purchase_appears_on_an_open_statement_without_reload(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.tell()
        event, event_id, html = await anext(events)

    assert (event, event_id) == ("lines", "2")
    assert amounts(html) == 1
    assert 'class="line fresh"' in html
    assert 'id="account-top"' in html


async def test_each_purchase_is_pushed_in_order(site: Site) -> None:
    async with listening(site, after=1) as events:
        ids = []
        for _ in range(3):
            await site.tell()
            ids.append((await anext(events))[1])

    assert ids == ["2", "3", "4"]


async def test_a_page_that_comes_back_goes_on_where_it_stopped(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.tell()
        seen = (await anext(events))[1]
    await site.tell(3)

    async with listening(site, after=1, last_event_id=seen) as events:
        _, event_id, html = await anext(events)

    assert event_id == "5"
    assert html.count('class="line fresh"') == 3
    assert amounts(html) == 4


async def test_a_page_that_missed_nothing_is_sent_nothing(site: Site) -> None:
    await site.tell()

    async with listening(site, after=2) as events:
        await site.tell()
        _, event_id, html = await anext(events)

    assert event_id == "3"
    assert html.count('class="line fresh"') == 1


async def test_a_lost_wake_up_loses_nothing(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.desk.pool.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'statement-live'"
        )
        await site.tell()
        _, event_id, _ = await anext(events)

    assert event_id == "2"


async def test_anothers_purchase_is_not_pushed(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.desk.append(*Story(BIA).opened().paid(4_242).events)
        await site.desk.project()
        await site.tell()
        _, _, html = await anext(events)

    assert "42,42" not in html


async def test_a_stream_ends_with_the_session(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.desk.pool.execute("delete from session")
        await site.tell()
        event, _, _ = await anext(events)

    assert event == "bye"


async def test_a_page_that_cannot_be_pushed_to_asks(site: Site) -> None:
    await site.tell(2)

    changed = (await site.ana.get(f"/changes?account={ANA}&after=1")).json()
    same = (await site.ana.get(f"/changes?account={ANA}&after={changed['after']}")).json()

    assert changed["after"] == "3"
    assert amounts(changed["html"]) == 2
    assert same == {"after": "3", "html": ""}


async def test_an_open_page_is_told_when_it_is_behind_and_when_no_more(site: Site) -> None:
    partition = partition_of(str(ANA).encode())
    await site.desk.pool.execute(
        "insert into freshness (partition, caught_up_at) values ($1, now() - interval '1 minute')", partition
    )
    async with listening(site, after=1) as events:
        event, place, html = await anext(events)
        assert (event, place) == ("lines", "1b")
        assert "atrasado" in html
        assert "atrasado" in (await site.ana.get("/")).text

        await site.desk.pool.execute("update freshness set caught_up_at = now()")
        event, place, html = await anext(events)
        assert (event, place) == ("lines", "1")
        assert "atrasado" not in html
    assert (await site.ana.get(f"/changes?account={ANA}&after=1b")).json()["after"] == "1"


async def test_trap_c08_a_time_ahead_of_now_is_not_taken_for_fresh(site: Site) -> None:
    partition = partition_of(str(ANA).encode())
    await site.desk.pool.execute(
        "insert into freshness (partition, caught_up_at) values ($1, now() + interval '1 hour')", partition
    )
    async with listening(site, after=1) as events:
        event, position, html = await anext(events)

    assert (event, position) == ("lines", "1b")
    assert "atrasado" in html


async def test_another_accounts_partition_being_behind_is_no_news(site: Site) -> None:
    other = (partition_of(str(ANA).encode()) + 1) % PARTITIONS
    await site.desk.pool.execute(
        "insert into freshness (partition, caught_up_at) values ($1, now() - interval '1 minute')", other
    )
    async with listening(site, after=1) as events:
        await site.tell()
        _, place, html = await anext(events)
    assert place == "2"
    assert "atrasado" not in html


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 30, "%00", "b", "1bb"])
async def test_a_number_that_is_none_is_refused(site: Site, after: str) -> None:
    assert (await site.ana.get(f"/live?account={ANA}&after={after}")).status_code == 422
    assert (await site.ana.get(f"/changes?account={ANA}&after={after}")).status_code == 422


async def test_a_wake_up_that_a_newer_projector_words_otherwise_still_wakes(site: Site) -> None:
    async with listening(site, after=1) as events:
        await site.tell()
        await anext(events)
        await site.desk.pool.execute("update account set sequence = sequence + 1")
        await site.desk.pool.execute("select pg_notify('line', 'version 2; ' || $1::text)", str(ANA))
        _, position, _ = await anext(events)

    assert position == "3"


async def test_trap_c02_a_watch_that_stumbles_ends_the_role(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("codebank.statement.live.read_behind", stumble)
    own = system_settings(settings.databases)  # type: ignore[attr-defined]

    role = asyncio.ensure_future(ROLES["statement"].run(own, Telemetry(METRICS), asyncio.Event()))
    done, _ = await asyncio.wait({role}, timeout=8)

    assert done == {role}
    with pytest.raises(ZeroDivisionError):
        role.result()


async def test_trap_c07_the_pages_are_ready_while_their_database_answers(site: Site, databases: Databases) -> None:
    name = databases.names["statement"]
    ready = site.hub.telemetry.ready
    keeper = await connect(databases.server.dsn(name, "postgres"))
    ready.set()

    await keeper.execute(f"alter database {name} connection limit 0")
    await keeper.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    await until(lambda: not ready.is_set())
    answer = await site.ana.get("/")
    await keeper.execute(f"alter database {name} connection limit -1")
    await until(ready.is_set)

    assert answer.status_code == 503
    assert (await site.ana.get("/")).status_code == 200
    await keeper.close()


async def test_pages_that_are_let_go_are_not_called_ready_again(settings: Settings) -> None:
    hub = Hub(settings.database_url("statement"), Telemetry(METRICS))
    hub.telemetry.ready.set()

    hub.telemetry.ready.note("pages", does=False)
    hub.close()
    hub.telemetry.ready.note("pages", does=True)

    assert not hub.telemetry.ready.is_set()


async def test_stopping_lets_open_pages_go(site: Site) -> None:
    async with listening(site, after=1) as events:
        site.hub.close()

        assert [event async for event in events] == []


async def test_trap_c10_an_older_page_stays_and_says_how_much_is_new(site: Site) -> None:
    await site.tell(4)  # events 2 to 5; the older page has 2 and 3
    async with listening(site, after=5, query="&limit=2&cursor=4&since=5") as events:
        await site.tell()
        _, _, one = await anext(events)
        await site.tell(2)
        _, _, three = await anext(events)

    for html in (one, three):
        assert amounts(html) == 2
        assert 'class="line fresh"' not in html
        assert 'rel="prev"' in html
    news = one.split('id="news"')[1].split('id="lines"')[0]
    assert "1 novo lançamento" in news
    assert f'href="/?limit=2&amp;account={ANA}"' in news
    assert "3 novos lançamentos" in three


async def test_an_older_page_shows_what_was_given_back_and_calls_it_nothing_new(site: Site) -> None:
    await site.tell(4)
    async with listening(site, after=5, query="&limit=2&cursor=4&since=5") as events:
        site.story.returned(2, 100)
        await site.show(5)
        _, position, html = await anext(events)

    assert position == "6"
    assert "Estornado" in html
    assert "nov" not in html.split('id="news"')[1].split('id="lines"')[0]


@pytest.mark.parametrize(("query", "shown"), [
    ("&limit=2", 2), ("&status=declined", 1), ("&q=nada", 0), ("&from=2026-11-21", 0), ("&status=all", 5), ("", 4),
])  # fmt: skip
async def test_a_push_keeps_whatever_the_page_had_asked_for(site: Site, query: str, shown: int) -> None:
    await site.tell(3)
    site.story.declined(4_242)
    await site.show(4)

    page = (await site.ana.get(f"/?{query}")).text
    address = unescape(re.findall(r'data-live-url="/live[?]([^"]*)"', page)[0])
    async with listening(site, after=5, query=f"&{address}") as events:
        await site.tell()
        _, _, html = await anext(events)

    assert amounts(html.split('id="refused"')[0]) == shown


@pytest.mark.parametrize("claimed", ["999", "999999999999999999", "999b"])
async def test_a_page_is_believed_no_further_than_what_the_account_has(site: Site, claimed: str) -> None:
    await site.tell(2)

    changed = (await site.ana.get(f"/changes?account={ANA}&after={claimed}")).json()
    async with listening(site, after=1, last_event_id=claimed) as events:
        _, position, html = await anext(events)
        await site.tell()
        _, then, later = await anext(events)

    assert (changed["after"], position, then) == ("3", "3", "4")
    assert (amounts(changed["html"]), amounts(html)) == (2, 2)
    assert 'class="line fresh"' not in html
    assert later.count('class="line fresh"') == 1


async def test_one_stream_tells_of_every_account_of_the_reader(site: Site) -> None:
    await site.desk.pool.execute(
        "insert into cardholder_account select cardholder_id, $1, 2 from cardholder where email = 'ana@x.example'", BIA
    )
    bia = Story(BIA).opened()
    await site.desk.append(*bia.events)
    await site.desk.project()
    async with listening(site, after=1, kinds=("moved", "lines")) as events:
        first = [(await anext(events))[::2] for _ in range(2)]
        bia.paid(4_242)
        await site.desk.append(*bia.events[1:])
        await site.desk.project()
        then = (await anext(events))[::2]
        await site.tell()
        last = [(await anext(events))[0] for _ in range(2)]

    assert first == [("moved", f"{ANA} 1"), ("moved", f"{BIA} 1")]
    assert then == ("moved", f"{BIA} 2")
    assert last == ["moved", "lines"]


async def test_a_stream_beats_while_nothing_happens(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codebank.statement.pushing.BEAT_SECONDS", 0.02)
    async with listening(site, after=1, kinds=("beat", "lines")) as events:
        kinds = [(await anext(events))[0] for _ in range(3)]

    assert kinds == ["beat"] * 3


async def test_a_stream_ends_with_the_session_though_nothing_happens(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codebank.statement.pushing.BEAT_SECONDS", 0.02)
    async with listening(site, after=1) as events:
        await site.desk.pool.execute("delete from session")
        event, _, _ = await anext(events)

    assert event == "bye"


async def test_trap_c07_a_stream_whose_database_is_away_ends_without_calling_the_session_over(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(site, after=1) as events:
        monkeypatch.setattr("codebank.statement.store.reading.read_accounts", unreachable)
        site.hub._heard("")

        assert [event async for event in events] == []


async def unreachable(*_arguments: object) -> None:
    raise ConnectionRefusedError


REQUEST = b"GET /api/accounts HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("sent", [b"", REQUEST, REQUEST[:20], REQUEST * 40, REQUEST * 140, b"\0\xff" * 9, b"\r\n" * 9])
async def test_a_page_is_let_go_when_its_connection_closes_whatever_else_was_sent_on_it(
    site: Site, sent: bytes, at_once: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    asked = f"GET /live?account={ANA} HTTP/1.1\r\nhost: x\r\ncookie: session={site.ana.cookies['session']}\r\n\r\n"
    writer.write(asked.encode() + (sent if at_once else b""))
    # What is no request, or too many at once, is let go by the server.
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"event: beat")
        writer.write(b"" if at_once else sent)
        await writer.drain()

    writer.close()

    await until(lambda: site.requests_under_way() == 0)
    assert site.hub._pages == {}
