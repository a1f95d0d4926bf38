"""The payment and order pages in a real browser: what is pasted, lost connections, waiting, another language."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from codebank.bank.test_cards import TEST_CARDS
from tests.checkout.shop import APPROVED, TIMEOUT_AFTER_COMMIT, orders_of
from tests.checkout.typed_cases import EXPIRIES, NUMBERS
from tests.conftest import Databases
from tests.system import System, running_system
from tests.test_payment import browser, buy_in_the_browser  # noqa: F401

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Route

pytestmark = [pytest.mark.anyio, pytest.mark.browser]
PASTE = "text => document.execCommand('insertText', false, text)"
DRAWN = "({ selector, pseudo, name }) => getComputedStyle(document.querySelector(selector), pseudo)[name]"


@pytest.fixture
async def system(databases: Databases) -> AsyncIterator[System]:
    async with running_system(databases) as made:
        yield made


@pytest.fixture
async def page(system: System, browser: Browser) -> Page:  # noqa: F811
    """Give a browser at the payment page."""
    made = await browser.new_page(locale="pt-BR", viewport={"width": 390, "height": 844})
    await made.goto(f"{system.settings.checkout_home()}/products/caneca-esmaltada")
    await made.click(".buy .button")
    await made.click("text=Ir para o pagamento")
    # Until its scripts have run: a buyer who is quicker is read by the shop, but not written anew in the field.
    await made.wait_for_url("**/payment")
    return made


async def fill_card(page: Page, number: str = APPROVED) -> None:
    for field, text in (("#number", number), ("#expiry", "1234"), ("#cvv", "123")):
        await page.type(field, text)


async def paste(page: Page, field: str, text: str) -> str:
    """Paste into an empty field, leave it, and give what stands in it."""
    await page.fill(field, "")
    await page.focus(field)
    await page.evaluate(PASTE, text)
    await page.locator(field).blur()
    return await page.input_value(field)


async def test_what_is_pasted_becomes_what_it_means_or_stays_with_a_message(page: Page) -> None:
    for text, number in NUMBERS:
        value = await paste(page, "#number", text)
        assert value == ("4000 0010 0000 0018" if number else text)
        assert bool(await page.inner_text("#number-error")) == (not number), text
    for text, expiry in EXPIRIES:
        value = await paste(page, "#expiry", text)
        assert value == (f"{expiry[1]:02}/{expiry[0] % 100:02}" if expiry else text)
        is_good = expiry is not None and expiry > (2026, 11)
        assert bool(await page.inner_text("#expiry-error")) == (not is_good), text
    assert await paste(page, "#cvv", " １２３ ") == "123"
    assert await paste(page, "#number", "4000 0010 0000 0018 00 00") == "4000 0010 0000 0018 00 00"


async def test_what_is_typed_by_hand_is_grouped_and_a_brand_shown_by_the_servers_list(page: Page) -> None:
    for typed, value in (
        ("122034", "12/34"),
        ("2034-12", "12/34"),
        ("3412", "12/34"),
        ("1/34", "01/34"),
        ("12/34", "12/34"),
    ):
        await page.fill("#expiry", "")
        await page.type("#expiry", typed)
        assert await page.input_value("#expiry") == value
    for number, brand in (("401178", "elo"), ("401177", "visa"), ("606282", "hipercard"), ("3700", "amex"), ("9", "")):
        await page.fill("#number", "")
        await page.type("#number", number)
        assert await page.get_attribute('[data-part="brand"]', "data-brand") == brand


async def test_a_connection_that_drops_after_the_order_was_made_finds_it_by_its_key(page: Page, system: System) -> None:
    async def lose_the_answer(route: Route) -> None:
        if route.request.method == "POST":
            await route.fetch(max_redirects=0)
            await route.abort("connectionreset")
        else:
            await route.continue_()

    await page.route("**/payment", lose_the_answer)
    await fill_card(page)
    await page.click("[data-pay]")

    await page.wait_for_url("**/orders/**")
    assert "Pago" in await page.inner_text("h1")
    assert [order["status"] for order in await orders_of(system.settings)] == ["paid"]


@pytest.mark.parametrize("away", ["dropped", "503"])
async def test_a_payment_that_never_reached_the_shop_is_said_to_and_may_be_sent_again(
    page: Page, system: System, away: str
) -> None:
    async def lose(route: Route) -> None:
        if route.request.method != "POST":
            await route.continue_()
        elif away == "dropped":
            await route.abort("internetdisconnected")
        else:
            await route.fulfill(status=503, body="<html><title>x</title><main></main></html>")

    await page.route("**/payment", lose)
    await fill_card(page)
    await page.click("[data-pay]")
    await page.wait_for_selector("text=Estamos perguntando ao banco")
    await page.wait_for_selector("text=O pedido não chegou à loja e nada foi cobrado")
    await page.unroute("**/payment")
    await page.click("[data-pay]")

    await page.wait_for_url("**/orders/**")
    assert [order["status"] for order in await orders_of(system.settings)] == ["paid"]


async def test_while_the_bank_is_asked_the_page_tells_the_try_and_the_time(page: Page) -> None:
    await fill_card(page, TIMEOUT_AFTER_COMMIT)
    await page.click("[data-pay]")

    await page.wait_for_selector("text=/1ª tentativa · há [1-3] s/")
    assert "Sem resposta em 5 s, abrimos a página do pedido" in await page.inner_text("[data-under-way]")
    await page.wait_for_url("**/orders/**")
    times = await page.locator(".timeline .time").all_inner_texts()
    assert re.fullmatch(r"\+\d+ ms", times[1])
    assert re.fullmatch(r"\+3,\d s", times[2])
    await page.wait_for_selector("[data-arrival].done")
    # Counted from the click like the rest, not from the commit.
    added = await page.evaluate("document.querySelector('[data-arrival]').dataset.zero")
    assert int(added) == int(times[1][1:-3])


async def test_what_the_shop_says_of_a_form_is_shown_where_one_stands_with_what_was_typed(page: Page) -> None:
    await fill_card(page)
    await page.evaluate("document.querySelector('[name=total_minor]').value = '1'")
    await page.click("[data-pay]")

    await page.wait_for_selector("text=O valor do carrinho mudou")
    assert await page.input_value("#number") == "4000 0010 0000 0018"
    assert await page.input_value("#cvv") == "123"
    await page.click("[data-pay]")
    await page.wait_for_url("**/orders/**")


async def test_another_language_keeps_what_was_typed_and_the_place_and_stores_nothing(
    page: Page, system: System
) -> None:
    await fill_card(page)
    await page.check("[name=parcelas][value='3']", force=True)
    await page.evaluate("scrollTo(0, 400)")
    before = await page.evaluate("scrollY")

    await page.evaluate("document.querySelector('.switches [name=language]').click()")

    await page.wait_for_selector("text=Card number")
    assert [await page.input_value(field) for field in ("#number", "#expiry", "#cvv")] == [
        "4000 0010 0000 0018", "12/34", "123",
    ]  # fmt: skip
    assert await page.is_checked("[name=parcelas][value='3']")
    assert await page.evaluate("[scrollY, document.documentElement.lang, document.title]") == [
        before, "en", "Payment · Shop",
    ]  # fmt: skip
    assert await page.evaluate("sessionStorage.length + localStorage.length") == 0
    assert "4000" not in await page.inner_text('[data-part="number"]')
    assert "0018" in await page.inner_text('[data-part="number"]')
    await page.click("[data-pay]")
    await page.wait_for_url("**/orders/**")
    assert "Paid" in await page.inner_text("h1")
    assert [order["parcelas"] for order in await orders_of(system.settings)] == [3]


async def test_a_page_that_is_opened_anew_in_another_language_keeps_what_was_typed_too(
    page: Page, system: System
) -> None:
    await page.goto(f"{system.settings.checkout_home()}/products/caneca-esmaltada")
    await page.fill("#quantity", "7")
    await page.click(".switches [name=language]")

    await page.wait_for_selector("text=Add to basket")
    assert await page.input_value("#quantity") == "7"
    assert await page.evaluate("sessionStorage.length") == 0
    await page.goto(f"{system.settings.statement_home()}/sign-in")
    await page.fill("#email", "somebody@example.org")
    await page.fill("#password", "a secret of theirs")
    # A window keeps its name: it tells what was stored.
    await page.evaluate(
        "const store = Storage.prototype.setItem;"
        "Storage.prototype.setItem = function (name, text) { window.name = text; store.call(this, name, text) }; 0"
    )
    await page.click(".switches [name=language]")
    await page.wait_for_selector("html[lang='pt-BR']")
    assert await page.input_value("#email") == "somebody@example.org"
    assert await page.input_value("#password") == ""
    stored = await page.evaluate("window.name")
    assert "somebody@example.org" in stored
    assert "a secret of theirs" not in stored


async def test_a_test_card_fills_the_form_by_a_click(page: Page) -> None:
    amex = next(card for card in TEST_CARDS if len(card.cvv) == 4)
    await page.click("details.card summary")

    await page.click(f'button:has-text("{amex.number}")')

    assert await page.input_value("#number") == "3700 001000 00019"
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/orders/**")
    assert "Pago" in await page.inner_text("h1")


@pytest.mark.parametrize("language", ["pt-BR", "en"])
async def test_the_shops_own_words_fit_the_smallest_phone(system: System, browser: Browser, language: str) -> None:  # noqa: F811
    context = await browser.new_context(viewport={"width": 320, "height": 640}, locale=language)
    page = await context.new_page()
    shop = system.settings.checkout_home()
    await page.goto(f"{shop}/products/caneca-esmaltada")
    await page.click(".buy .button")
    await page.goto(f"{shop}/products/caneca-esmaltada")
    for path in ("/products/caneca-esmaltada", "/basket?capped", "/payment"):
        await page.goto(shop + path)
        await page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")

        assert await page.evaluate("document.documentElement.scrollWidth") == 320, path
    await page.goto(f"{shop}/products/caneca-esmaltada")
    await page.fill("#quantity", "")
    await page.evaluate("document.querySelector('.buy').submit()")
    await page.wait_for_selector("[aria-invalid]")
    assert await page.evaluate("document.documentElement.scrollWidth") == 320


async def test_without_scripts_the_last_step_of_an_order_does_not_turn(
    system: System,
    browser: Browser,  # noqa: F811
) -> None:
    context = await browser.new_context(java_script_enabled=False, locale="pt-BR")
    page = await context.new_page()
    await buy_in_the_browser(page, system, APPROVED)
    last: dict[str, Any] = {"selector": ".timeline li:last-child", "pseudo": "::before", "name": "animationName"}

    assert await page.locator("[data-arrival]").count() == 1
    assert await page.evaluate(DRAWN, last) == "none"


async def test_a_bank_that_stays_silent_ends_in_a_cancelled_order_that_offers_the_same_card(
    databases: Databases,
    browser: Browser,  # noqa: F811
) -> None:
    async with running_system(
        databases, call_budget_seconds=1, resolve_after_seconds=1, cancel_after_seconds=4
    ) as made:
        page = await browser.new_page(locale="pt-BR")
        await page.goto(f"{made.settings.checkout_home()}/products/caneca-esmaltada")
        await page.click(".buy .button")
        await page.click("text=Ir para o pagamento")
        await page.wait_for_url("**/payment")
        await fill_card(page)
        await made.stop("bank")
        await page.click("[data-pay]")
        await page.wait_for_url("**/orders/**")
        under_way = await page.title()
        await page.wait_for_selector("text=/ª tentativa/")
        await made.start("bank")

        await page.wait_for_selector("text=cancelamos por segurança e nada foi cobrado")

        assert under_way.startswith("Confirmando com o banco · R$\u00a089,90")
        assert (await page.title()).startswith("Pedido cancelado · R$\u00a089,90")
        await page.click("a.button:has-text('com o mesmo cartão')")
        assert page.url.endswith("/payment")
