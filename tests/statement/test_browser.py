"""The statement in a real browser: many tabs, a server that hangs, a session that ends, pages that stay."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from codebank.settings import Settings
from codebank.statement.showing import BEAT_SECONDS
from tests.statement.desk import BIA, PASSWORD, Story, add_people, open_desk
from tests.statement.site import Site, open_site
from tests.system import own_server, role_process
from tests.test_payment import CHROMIUM_ARGUMENTS, chromium

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

LIVE = '.live-mark[data-live="on"]'
#: More than a browser's connections to one site.
TABS = 8


@pytest.fixture
async def context() -> AsyncIterator[BrowserContext]:
    path = chromium()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield await browser.new_context(locale="pt-BR")
        await browser.close()


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    async with open_site(settings) as opened:
        yield opened


async def enter(context: BrowserContext, home: str) -> Page:
    page = await context.new_page()
    page.set_default_timeout(20_000)
    await page.goto(home)
    await page.fill("#email", "ana@x.example")
    await page.fill("#password", PASSWORD)
    await page.click("main form button")
    await page.wait_for_selector(".live-mark")
    return page


async def open_tab(context: BrowserContext, address: str) -> Page:
    page = await context.new_page()
    page.set_default_timeout(20_000)
    await page.goto(address)
    return page


def home_of(site: Site) -> str:
    return f"http://127.0.0.1:{site.port}"


async def test_any_number_of_tabs_load_and_show_what_comes_by_one_stream(site: Site, context: BrowserContext) -> None:
    await site.desk.pool.execute(
        "insert into cardholder_account select cardholder_id, $1, 2 from cardholder where email = 'ana@x.example'", BIA
    )
    await site.desk.append(*Story(BIA).opened().events)
    await site.desk.project()
    home = home_of(site)
    tabs = [await enter(context, home)]
    for number in range(1, TABS):
        tabs.append(await open_tab(context, f"{home}/?account={BIA}" if number == 1 else f"{home}/?limit={number}"))
    for tab in tabs:
        await tab.wait_for_selector(LIVE)
    assert site.requests_under_way() == 1

    await site.tell()
    for tab in tabs[:1] + tabs[2:]:
        await tab.wait_for_selector("#lines .line.fresh")
    assert await tabs[1].query_selector("#lines .line") is None

    leader = tabs.pop(0)
    await leader.close()
    await site.desk.append(*Story(BIA).opened().paid(4_242).events[1:])
    await site.desk.project()
    await tabs[0].wait_for_selector("#lines .line.fresh")
    assert "42,42" in await tabs[0].inner_text("#lines")
    await site.tell()
    for tab in tabs[1:]:
        await tab.wait_for_selector("#lines .line:nth-of-type(2)")
        assert await tab.get_attribute(".live-mark", "data-live") == "on"


async def test_a_browser_without_locks_is_told_too(site: Site, context: BrowserContext) -> None:
    await context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
    page = await enter(context, home_of(site))
    await page.wait_for_selector(LIVE)

    await site.tell()

    await page.wait_for_selector("#lines .line.fresh")


async def test_a_tab_that_nothing_is_pushed_to_asks(site: Site, context: BrowserContext) -> None:
    await context.route("**/live?*", lambda route: route.abort())
    page = await enter(context, home_of(site))
    await page.wait_for_selector('.live-mark[data-live="poll"]')

    await site.tell()

    await page.wait_for_selector("#lines .line.fresh")


async def test_trap_c10_an_older_page_is_not_replaced_and_leads_to_what_is_new(
    site: Site, context: BrowserContext
) -> None:
    await site.tell(4)
    page = await enter(context, home_of(site))
    await page.goto(f"{home_of(site)}/?limit=2")
    await page.click("text=Mais antigos")
    await page.wait_for_selector(LIVE)
    older = await page.inner_text("#lines ul")

    await site.tell()
    await page.wait_for_selector("#news a")

    assert await page.inner_text("#news a") == "1 novo lançamento"
    assert await page.inner_text("#announcer") == "1 novo lançamento"
    assert await page.inner_text("#lines ul") == older
    await page.click("#news a")
    await page.wait_for_selector(LIVE)
    assert await page.inner_text("#lines ul") != older
    assert "cursor" not in page.url
    await page.go_back()
    await page.click("text=Mais novos")
    await page.wait_for_url(lambda address: "cursor" in address or "limit=2" in address)


async def test_an_open_fold_stays_open_and_a_closed_one_closed_when_something_comes(
    site: Site, context: BrowserContext
) -> None:
    before = len(site.story.events)
    site.story.declined(500)
    await site.show(before)
    page = await enter(context, home_of(site))
    await page.wait_for_selector(LIVE)

    for open_before, amount in ((False, 600), (True, 700)):
        if open_before:
            await page.click("#refused-lines summary")
        before = len(site.story.events)
        site.story.declined(amount)
        await site.show(before)
        await page.wait_for_selector(f"#refused-lines :text('{amount // 100}')", state="attached")
        assert await page.evaluate("document.getElementById('refused-lines').open") is open_before
        assert "Tentativa recusada" in await page.inner_text("#announcer")
        assert "1 nova" in await page.inner_text("#refused-lines summary")


async def test_once_the_session_ended_no_tab_shows_an_amount_and_each_leads_back(
    site: Site, context: BrowserContext
) -> None:
    await site.tell()
    home = home_of(site)
    tabs = [await enter(context, home), await open_tab(context, f"{home}/?q=padaria")]
    for tab in tabs:
        await tab.wait_for_selector(LIVE)

    await site.desk.pool.execute("delete from session")
    await site.tell()

    for tab in tabs:
        await tab.wait_for_selector("text=Sua sessão terminou")
        assert "R$" not in await tab.inner_text("body")
        assert "Sua sessão terminou" in await tab.title()
    await tabs[1].click("main a.button")
    await tabs[1].fill("#email", "ana@x.example")
    await tabs[1].fill("#password", PASSWORD)
    await tabs[1].click("main form button")
    await tabs[1].wait_for_selector(LIVE)
    assert tabs[1].url == f"{home}/?q=padaria"
    assert "2 lançamentos" in await tabs[1].inner_text("#lines")


async def test_trap_c11_the_mark_says_within_two_beats_that_the_server_is_frozen(
    context: BrowserContext, folder: Path
) -> None:
    async with own_server(folder) as environment, role_process("statement", environment) as role:
        await add_people(role.settings)
        async with open_desk(role.settings) as desk:
            await desk.append(*Story().opened().paid(100).events)
            await desk.project()
        home = role.settings.statement_home().replace("localhost", "127.0.0.1")
        tabs = [await enter(context, home), await open_tab(context, home)]
        for tab in tabs:
            await tab.wait_for_selector(LIVE)

        role.signal(signal.SIGSTOP)
        async with asyncio.timeout(2 * BEAT_SECONDS):
            for tab in tabs:
                await tab.wait_for_selector('.live-mark[data-live="off"]')
        role.signal(signal.SIGCONT)

        for tab in tabs:
            await tab.wait_for_selector(LIVE)
