"""The shop's pages, as a browser without scripts uses them, against the real bank."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime

import pytest

from codebank.checkout import web
from codebank.checkout.order import description_of
from codebank.checkout.store.orders import find_order
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from tests.checkout.shop import (
    APPROVED,
    CVV,
    LIMIT_EXCEEDED,
    Browsers,
    fill_basket,
    open_shop,
    orders_of,
    payment_form,
    payments_of,
)
from tests.conftest import settings_for

pytestmark = pytest.mark.anyio


async def test_a_purchase_from_the_catalogue_to_the_paid_order(browsers: Browsers, shop_settings: Settings) -> None:
    browser = browsers()
    catalogue = await browser.get("/")
    await fill_basket(browser, "caneca-esmaltada", 2)

    sent = await browser.post("/payment", data=await payment_form(browser))
    page = await browser.get(sent.headers["location"])

    assert catalogue.text.count('class="product-tile"') == 12
    assert sent.status_code == 303
    assert "Pago" in page.text
    assert (await orders_of(shop_settings))[0]["total_minor"] == 2 * 8_990
    assert [payment["amount_minor"] for payment in await payments_of(shop_settings)] == [2 * 8_990]
    assert "vazio" in (await browser.get("/basket")).text


async def test_trap_b17_a_declined_order_is_kept_with_its_reason_and_the_basket_may_be_paid_with_another_card(
    browsers: Browsers, shop_settings: Settings
) -> None:
    browser = browsers()
    await fill_basket(browser)

    declined = await browser.post("/payment", data=await payment_form(browser, LIMIT_EXCEEDED))
    page = await browser.get(declined.headers["location"])
    paid = await browser.post("/payment", data=await payment_form(browser))

    assert "Cartão sem limite para esta compra." in page.text
    assert "limit_exceeded" in page.text
    assert "Pago" in (await browser.get(paid.headers["location"])).text
    assert [order["status"] for order in await orders_of(shop_settings)] == ["declined", "paid"]
    assert [payment["status"] for payment in await payments_of(shop_settings)] == ["declined", "approved"]


async def test_trap_a11_double_click_refresh_back_and_two_tabs_pay_once(
    browsers: Browsers, shop_settings: Settings
) -> None:
    browser = browsers()
    await fill_basket(browser)
    form, other_tab = await payment_form(browser), await payment_form(browser)

    clicks = await asyncio.gather(*(browser.post("/payment", data=form) for _ in range(5)))
    second_tab = await browser.post("/payment", data=other_tab)
    back = await browser.post("/payment", data=form)

    assert {answer.headers["location"] for answer in (*clicks, second_tab, back)} == {clicks[0].headers["location"]}
    assert len(await orders_of(shop_settings)) == 1
    assert len(await payments_of(shop_settings)) == 1


async def test_trap_c06_a_page_sent_again_finds_its_order_when_the_card_has_expired_and_the_price_has_changed(
    browsers: Browsers, shop_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browsers()
    await fill_basket(browser)
    form = await payment_form(browser)
    sent = await browser.post("/payment", data=form)
    keeper = await connect(shop_settings.database_url("checkout"))
    await keeper.execute("update product set price_minor = price_minor + 1")
    await keeper.close()
    monkeypatch.setattr(web, "utc_now", lambda: datetime(2035, 1, 2, tzinfo=UTC))

    again = await browser.post("/payment", data=form)

    assert (again.status_code, again.headers["location"]) == (303, sent.headers["location"])
    assert len(await orders_of(shop_settings)) == 1


async def test_the_bank_is_told_the_same_of_an_order_whatever_language_the_buyer_turns_to(
    browsers: Browsers, shop_settings: Settings
) -> None:
    browser = browsers()
    await fill_basket(browser, "caneca-esmaltada", 2)
    form = await payment_form(browser)
    sent = await browser.post("/payment", data=form)

    await browser.post("/preferences", data={"language": "en", "return_to": "/"})
    again = await browser.post("/payment", data=form)

    keeper = await connect(shop_settings.database_url("checkout"))
    order = await find_order(keeper, key=f"page:{form['attempt']}")
    await keeper.close()
    assert order is not None
    assert again.headers["location"] == sent.headers["location"]
    assert [payment["description"] for payment in await payments_of(shop_settings)] == ["2 × Caneca esmaltada"]
    assert description_of(order) == "2 × Caneca esmaltada"


async def test_trap_a14_a_basket_that_changed_meanwhile_is_not_charged(
    browsers: Browsers, shop_settings: Settings
) -> None:
    browser = browsers()
    await fill_basket(browser)
    form = await payment_form(browser)
    await fill_basket(browser, "rede-de-algodao")

    answer = await browser.post("/payment", data=form)

    assert answer.status_code == 409
    assert "O valor do carrinho mudou" in answer.text
    assert await orders_of(shop_settings) == []
    assert await payments_of(shop_settings) == []


async def test_trap_b13_nobody_pays_or_changes_anothers_order_with_its_key_or_another_total(
    browsers: Browsers, shop_settings: Settings
) -> None:
    victim, thief = browsers(), browsers()
    await fill_basket(victim, "fone-sem-fio")
    await fill_basket(thief)
    paid = await victim.post("/payment", data=await payment_form(victim))
    before = await orders_of(shop_settings)

    stolen_key = await thief.post(
        "/payment", data={**await payment_form(thief), "attempt": before[0]["idempotency_key"].removeprefix("page:")}
    )
    cheap = await thief.post("/payment", data={**await payment_form(thief), "total_minor": "1"})
    seen = await thief.get(paid.headers["location"])

    assert (stolen_key.status_code, cheap.status_code, seen.status_code) == (409, 409, 404)
    assert await orders_of(shop_settings) == before
    assert len(await payments_of(shop_settings)) == 1


async def test_trap_a24_card_number_and_cvv_never_come_back_in_a_page_or_an_address(shop_settings: Settings) -> None:
    # Not as a demo, whose pages list the published numbers.
    databases = shop_settings.databases  # type: ignore[attr-defined]
    plain = settings_for(databases, demo=False, bank_address=shop_settings.bank_address)
    async with open_shop(plain) as browsers:
        browser = browsers()
        await fill_basket(browser)
        form = await payment_form(browser, cvv="987")

        wrong = await browser.post("/payment", data={**form, "expiry": "99/99"})
        sent = await browser.post("/payment", data=form)
        page = await browser.get(sent.headers["location"])

    assert wrong.status_code == 422
    for text in (wrong.text, page.text, sent.headers["location"]):
        assert APPROVED not in text
        assert "987" not in re.sub(r"\?v=\w+|[0-9a-f-]{36}", "", text)


@pytest.mark.parametrize(("changes", "field"), [
    ({"number": "4000001000000019"}, "number"),
    ({"number": ""}, "number"),
    ({"expiry": "13/34"}, "expiry"),
    ({"expiry": "01/20"}, "expiry"),
    ({"expiry": "x"}, "expiry"),
    ({"cvv": ""}, "cvv"),
    ({"cvv": "12a"}, "cvv"),
    ({"number": "370000100000019", "cvv": "123"}, "cvv"),
])  # fmt: skip
async def test_what_is_wrong_with_the_card_is_said_at_its_field_and_nothing_is_charged(
    browsers: Browsers, shop_settings: Settings, changes: dict[str, str], field: str
) -> None:
    browser = browsers()
    await fill_basket(browser)

    answer = await browser.post("/payment", data={**await payment_form(browser), **changes})

    assert answer.status_code == 422
    assert re.search(rf'<input id="{field}"[^>]*aria-invalid="true"', answer.text)
    assert await orders_of(shop_settings) == []


@pytest.mark.parametrize("changes", [
    {"attempt": "x"}, {"attempt": ""}, {"total_minor": "-1"}, {"total_minor": "NaN"}, {"total_minor": "9" * 40},
    {"parcelas": "0"}, {"parcelas": "13"}, {"parcelas": "١"}, {"number": "\x00" * 16}, {"cvv": CVV * 9999},
])  # fmt: skip
async def test_a_form_that_no_page_sends_charges_nothing_and_breaks_nothing(
    browsers: Browsers, shop_settings: Settings, changes: dict[str, str]
) -> None:
    browser = browsers()
    await fill_basket(browser)

    answer = await browser.post("/payment", data={**await payment_form(browser), **changes})

    assert answer.status_code in {303, 422}
    assert await orders_of(shop_settings) == []


@pytest.mark.parametrize("path", ["/products/nada", "/products/%00", "/orders/x", "/nada", "/orders/" + "0" * 36])
async def test_what_is_not_there_is_a_page_that_says_so(browsers: Browsers, path: str) -> None:
    answer = await browsers().get(path)

    assert answer.status_code == 404
    assert "Página não encontrada" in answer.text


async def test_the_basket_holds_one_to_ninety_nine_of_a_thing_and_lets_it_go(browsers: Browsers) -> None:
    browser = browsers()
    await fill_basket(browser, quantity=98)
    await fill_basket(browser, quantity=50)
    full = (await browser.get("/basket")).text

    await browser.post("/basket", data={"product": "cafe-especial", "quantity": "0"})

    assert '<span class="quantity">99</span>' in full
    assert "vazio" in (await browser.get("/basket")).text
    assert (await browser.get("/payment")).headers["location"] == "/basket"


async def test_another_sites_page_cannot_pay_or_fill_a_basket(browsers: Browsers, shop_settings: Settings) -> None:
    browser = browsers()
    await fill_basket(browser)
    form = await payment_form(browser)

    by_origin = await browser.post("/payment", data=form, headers={"origin": "https://evil.example"})
    by_fetch = await browser.post("/payment", data=form, headers={"sec-fetch-site": "cross-site"})
    own = await browser.post("/basket", data={"product": "cafe-especial"}, headers={"origin": "http://shop"})

    assert (by_origin.status_code, by_fetch.status_code, own.status_code) == (403, 403, 303)
    assert await orders_of(shop_settings) == []


async def test_the_reader_chooses_language_and_theme(browsers: Browsers) -> None:
    browser = browsers()

    await browser.post("/preferences", data={"language": "en", "return_to": "/"})
    answer = await browser.post("/preferences", data={"theme": "dark", "return_to": "//evil.example"})
    page = await browser.get("/")

    assert answer.headers["location"] == "/"
    assert "Good things from Brazil" in page.text
    assert 'data-theme="dark"' in page.text
    assert 'lang="en"' in page.text


async def test_every_answer_carries_the_security_headers(browsers: Browsers) -> None:
    for path in ("/", "/nada", "/api/products", "/static/tokens.css"):
        headers = (await browsers().get(path)).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


async def test_the_orders_changing_part_is_drawn_alone(browsers: Browsers) -> None:
    browser = browsers()
    await fill_basket(browser)
    sent = await browser.post("/payment", data=await payment_form(browser))

    part = await browser.get(f"{sent.headers['location']}/status")

    assert part.status_code == 200
    assert part.text.strip().startswith('<section id="status"')
    assert "<html" not in part.text
