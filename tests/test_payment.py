"""One purchase through every room: by REST, and in a real browser with the statement open beside it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Protocol

import pytest

from codebank.bank.test_cards import TEST_CARDS
from codebank.lab.pay import Reached, buy
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from tests.conftest import Databases
from tests.system import System, running_system

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.anyio


class Site(Protocol):
    """A system that a browser can open."""

    @property
    def settings(self) -> Settings:
        """Where it is found."""


CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
async def system(databases: Databases) -> AsyncIterator[System]:
    async with running_system(databases) as made:
        yield made


def chromium() -> str:
    """Find Chromium; skip by name where it is missing, fail where it is required."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("TEST_CHROMIUM") or next(filter(None, map(shutil.which, names)), "")
    if path:
        return path
    if os.environ.get("TEST_BROWSER") == "required":
        pytest.fail("Chromium is missing and required here")
    pytest.skip("needs Chromium: install Debian's package chromium, or set TEST_CHROMIUM to its path")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield launched
        await launched.close()


async def test_a_purchase_by_rest_reaches_the_statement_and_every_side_agrees(system: System) -> None:
    stages: list[Reached] = []

    purchase = await asyncio.to_thread(buy, system.settings, TEST_CARDS[0], "rede-de-algodao", 2, stages.append)
    proof = await system.proven()
    async with system.statement() as statement:
        accounts = (await statement.get("/api/accounts")).json()["accounts"]
        lines = (await statement.get(f"/api/accounts/{accounts[0]['id']}/lines")).json()["lines"]

    assert purchase.is_paid
    assert [stage.name for stage in stages] == ["order", "bank", "statement"]
    assert [line["payment_id"] for line in lines] == [purchase.order["payment_id"]]
    assert lines[0]["amount"] == {"amount_minor": 69_800, "currency": "BRL"}
    assert accounts[0]["used_minor"] == 69_800
    assert proof.agrees


async def open_statement(browser: Browser, system: Site) -> Page:
    page = await browser.new_page(locale="pt-BR")
    await page.goto(system.settings.statement_home())
    await page.fill("#email", DEMO_EMAIL)
    await page.fill("#password", DEMO_PASSWORD)
    await page.click("main form button")
    await page.wait_for_selector('.live-mark[data-live="on"]')
    return page


async def buy_in_the_browser(page: Page, system: Site, number: str) -> None:
    await page.goto(f"{system.settings.checkout_home()}/products/caneca-esmaltada")
    await page.click(".buy .button")
    await page.click("text=Ir para o pagamento")
    await page.type("#number", number)
    await page.type("#expiry", "1234")
    await page.type("#cvv", "123")
    await page.click("[data-pay]")
    await page.wait_for_url("**/orders/**")


@pytest.mark.browser
async def test_a_purchase_in_a_browser_appears_on_the_open_statement_without_reload(
    system: System, browser: Browser
) -> None:
    statement = await open_statement(browser, system)
    await statement.evaluate("window.stillTheSamePage = true")
    shop = await browser.new_page(locale="pt-BR")
    problems: list[str] = []
    for page in (shop, statement):
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))

    await buy_in_the_browser(shop, system, TEST_CARDS[0].number)
    await shop.wait_for_selector("[data-arrival].done")
    line = await statement.wait_for_selector("#lines .line.fresh")

    assert line is not None
    assert "89,90" in await line.inner_text()
    assert "Pago" in await shop.inner_text("h1")
    assert await statement.evaluate("window.stillTheSamePage") is True
    assert problems == []
    assert (await system.proven()).agrees


@pytest.mark.browser
async def test_the_payment_page_helps_while_one_types_and_sends_nothing_wrong(system: System, browser: Browser) -> None:
    page = await browser.new_page(locale="pt-BR")
    await page.goto(f"{system.settings.checkout_home()}/products/cafe-especial")
    await page.click(".buy .button")
    await page.goto(f"{system.settings.checkout_home()}/payment")

    await page.type("#number", "4000001000000019")
    await page.click("[data-pay]")

    assert await page.input_value("#number") == "4000 0010 0000 0019"
    assert await page.get_attribute("#number", "autocomplete") == "cc-number"
    assert "não é de um cartão" in await page.inner_text("#number-error")
    assert page.url.endswith("/payment")
    await page.fill("#number", "")
    await page.type("#number", "370000100000019")
    assert await page.input_value("#number") == "3700 001000 00019"


@pytest.mark.browser
async def test_a_double_click_and_the_back_button_pay_once(system: System, browser: Browser) -> None:
    page = await browser.new_page(locale="pt-BR")
    await page.goto(f"{system.settings.checkout_home()}/products/cafe-especial")
    await page.click(".buy .button")
    await page.goto(f"{system.settings.checkout_home()}/payment")
    for field, text in (("#number", TEST_CARDS[0].number), ("#expiry", "1234"), ("#cvv", "123")):
        await page.type(field, text)

    await page.dblclick("[data-pay]")
    await page.wait_for_url("**/orders/**")
    order = page.url
    await page.go_back()
    await page.goto(order)
    await page.reload()

    proof = await system.proven()
    assert proof.agrees
    assert {check.name: check.compared for check in proof.checks}["moved"] == 1


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
async def test_no_page_is_wider_than_its_screen_and_every_control_can_be_named(
    system: System, browser: Browser, width: int
) -> None:
    await buy_in_the_browser(await browser.new_page(locale="pt-BR"), system, TEST_CARDS[0].number)
    await system.proven()
    context = await browser.new_context(viewport={"width": width, "height": 844}, locale="pt-BR")
    page = await context.new_page()
    settings = system.settings
    await page.goto(settings.statement_home())
    await page.fill("#email", DEMO_EMAIL)
    await page.fill("#password", DEMO_PASSWORD)
    await page.click("main form button")
    for address in (
        settings.checkout_home(), f"{settings.checkout_home()}/products/bola-de-capotao",
        f"{settings.checkout_home()}/basket", f"{settings.checkout_home()}/nada", settings.statement_home(),
        settings.audit_home(),
    ):  # fmt: skip
        await page.goto(address)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        unnamed = await page.evaluate(
            "[...document.querySelectorAll('button, a[href], input:not([type=hidden]), select')].filter(control =>"
            " !(control.innerText || control.ariaLabel || control.title || control.labels?.length"
            " || control.querySelector('img[alt], svg title, .hidden-visually'))).map(control => control.outerHTML)"
        )
        assert unnamed == [], address


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 390])
async def test_what_only_a_newer_bank_has_words_for_fits_a_phone(system: System, browser: Browser, width: int) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 844}, locale="pt-BR")
    page, settings = await context.new_page(), system.settings
    refused = next(card for card in TEST_CARDS if card.outcome == "limit_exceeded")
    await buy_in_the_browser(page, system, TEST_CARDS[0].number)
    await buy_in_the_browser(page, system, refused.number)
    order_url = page.url
    await system.proven()
    for database, change in (
        ("checkout", "update orders set decline_code = 'code_37', advice = 'advice_9' where status = 'declined'"),
        ("statement", "update line set decline_code = 'code_37' where status = 'declined'"),
        ("statement", "update line set status = 'held_by_court' where status = 'approved'"),
    ):
        connection = await connect(settings.database_url(database))
        await connection.execute(change)
        await connection.close()
    await page.goto(settings.statement_home())
    await page.fill("#email", DEMO_EMAIL)
    await page.fill("#password", DEMO_PASSWORD)
    await page.click("main form button")
    await page.wait_for_selector("text=held_by_court")
    for address, word in ((settings.statement_home(), "não reconhecida"), (order_url, "code_37")):
        await page.goto(address)

        assert word in await page.inner_text("main")
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


@pytest.mark.browser
async def test_everything_can_be_bought_without_javascript(system: System, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False, locale="pt-BR")
    page = await context.new_page()

    await buy_in_the_browser(page, system, TEST_CARDS[0].number)

    assert "Pago" in await page.inner_text("h1")
