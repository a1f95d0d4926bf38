"""The payment form and the basket: what is typed is understood, and what is wrong is said as it is."""

from __future__ import annotations

import html
import itertools
import json
import re
from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest

from codebank.card import BRANDS
from codebank.checkout import web
from codebank.settings import Settings
from tests.checkout.shop import APPROVED, Browsers, fill_basket, orders_of, payment_form
from tests.checkout.typed_cases import EXPIRIES, NUMBERS

pytestmark = pytest.mark.anyio


def error_at(page: httpx.Response, field: str) -> str:
    found = re.search(rf'<span class="error" id="{field}-error">([^<]*)</span>', page.text)
    assert found is not None
    return html.unescape(found[1])


async def test_number_and_expiry_pay_however_they_were_pasted(browsers: Browsers, shop_settings: Settings) -> None:
    numbers = [text for text, read in NUMBERS if read]
    expiries = [text for text, read in EXPIRIES if read == (2034, 12)]

    for number, expiry in itertools.zip_longest(numbers, expiries, fillvalue=""):
        browser = browsers()
        await fill_basket(browser)
        form = await payment_form(browser, number or numbers[0], cvv=" １２３ ")
        sent = await browser.post("/payment", data={**form, "expiry": expiry or expiries[0]})
        assert sent.status_code == 303, (number, expiry)

    assert {order["status"] for order in await orders_of(shop_settings)} == {"paid"}
    assert {order["card_masked"] for order in await orders_of(shop_settings)} == {"•••• 0018"}


@pytest.mark.parametrize(("changes", "field", "message"), [
    ({"number": ""}, "number", "Escreva o número do cartão."),
    ({"number": " \u00a0 "}, "number", "Escreva o número do cartão."),
    ({"number": "4000001000000019"}, "number", "Este número não é de um cartão. Confira os dígitos."),
    ({"expiry": ""}, "expiry", "Escreva a validade do cartão."),
    ({"expiry": "31/12/2034"}, "expiry", "Escreva a validade como MM/AA, por exemplo 12/34."),
    ({"expiry": "01/20"}, "expiry", "Este cartão já venceu. Use outro cartão."),
    ({"cvv": ""}, "cvv", "Escreva o CVV."),
    ({"cvv": "1234"}, "cvv", "O CVV tem três dígitos."),
    ({"number": "370000100000019"}, "cvv", "O CVV do Amex tem quatro dígitos."),
])  # fmt: skip
async def test_an_error_says_what_is_wrong(
    browsers: Browsers, shop_settings: Settings, changes: dict[str, str], field: str, message: str
) -> None:
    browser = browsers()
    await fill_basket(browser)

    answer = await browser.post("/payment", data={**await payment_form(browser), **changes})

    assert answer.status_code == 422
    assert error_at(answer, field) == message
    assert [name for name in ("number", "expiry", "cvv") if error_at(answer, name)] == [field]
    assert await orders_of(shop_settings) == []


async def test_an_expiry_that_is_not_understood_stays_as_it_was_written(browsers: Browsers) -> None:
    browser = browsers()
    await fill_basket(browser)
    form = await payment_form(browser)

    answer = await browser.post("/payment", data={**form, "expiry": "31/12/2034"})
    strayed = await browser.post("/payment", data={**form, "number": "", "expiry": "4222001000000018"})

    assert 'value="31/12/2034"' in answer.text
    assert "4222001000000018" not in strayed.text


async def test_only_the_servers_clock_says_whether_a_card_is_past(
    browsers: Browsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browsers()
    await fill_basket(browser)
    # Still November in São Paulo, and December in Asia.
    monkeypatch.setattr(web, "utc_now", lambda: datetime(2034, 12, 1, 2, 59, tzinfo=UTC))

    page = await browser.get("/payment")

    assert 'data-month="2034-11"' in page.text


async def test_the_page_knows_brands_by_the_servers_list(browsers: Browsers) -> None:
    browser = browsers()
    await fill_basket(browser)

    page = await browser.get("/payment")

    found = re.search(r'data-brands="([^"]*)"', page.text)
    assert found is not None
    assert json.loads(html.unescape(found[1])) == json.loads(json.dumps(BRANDS))


async def test_a_page_that_lost_its_answer_finds_its_order_by_its_key_and_nobody_elses(browsers: Browsers) -> None:
    browser, stranger = browsers(), browsers()
    await fill_basket(browser)
    await fill_basket(stranger)
    form = await payment_form(browser)
    before = await browser.get(f"/attempts/{form['attempt']}")

    sent = await browser.post("/payment", data=form)

    found = await browser.get(f"/attempts/{form['attempt']}")
    assert found.json() == {"location": sent.headers["location"], "status": "paid", "tries": 1}
    assert found.headers["cache-control"] == "no-store"
    others = [await stranger.get(f"/attempts/{form['attempt']}"), await browser.get(f"/attempts/{uuid4()}")]
    assert {answer.status_code for answer in (before, *others, await browser.get("/attempts/x"))} == {404}


async def test_more_than_ninety_nine_of_a_thing_are_capped_and_the_page_says_so(browsers: Browsers) -> None:
    browser = browsers()

    for quantity in ("98", "50"):
        added = await browser.post(
            "/basket", data={"product": "rede-de-algodao", "action": "add", "quantity": quantity}
        )

    page = await browser.get(added.headers["location"])
    assert '<span class="quantity">99</span>' in page.text
    assert "De cada produto cabem no máximo 99" in page.text
    assert "De cada produto" not in (await browser.get("/basket")).text


@pytest.mark.parametrize("quantity", ["", "0", "-1", "1.5", "x", "９", "9" * 12, "1e3"])
async def test_a_quantity_that_is_none_is_said_at_its_field_and_nothing_is_added(
    browsers: Browsers, quantity: str
) -> None:
    browser = browsers()

    answer = await browser.post("/basket", data={"product": "rede-de-algodao", "action": "add", "quantity": quantity})

    assert answer.status_code == 422
    assert error_at(answer, "quantity") == "Escreva uma quantidade de 1 a 99."
    assert "vazio" in (await browser.get("/basket")).text


async def test_test_cards_are_offered_to_be_filled_in(browsers: Browsers) -> None:
    browser = browsers()
    await fill_basket(browser)

    page = await browser.get("/payment")

    # The script makes a button of it; without one it is a number to copy.
    fills = (
        f'data-fill="Usar {APPROVED}: Aprovado" data-number="{APPROVED}" data-expiry="12/34" data-cvv="123">{APPROVED}'
    )
    assert f"<code {fills}</code>" in page.text
