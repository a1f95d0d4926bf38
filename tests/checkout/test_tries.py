"""What an order's page tells of waiting: times from the click on, lost answers and tries drawn, and how it ended."""

from __future__ import annotations

import asyncio
import html
import re
from typing import Any

import grpc
import pytest

from codebank.settings import Settings
from tests.checkout.shop import (
    TIMEOUT_AFTER_COMMIT,
    UNAVAILABLE_ONCE,
    fill_basket,
    odd_bank,
    open_shop,
    orders_of,
    payment_form,
    serving,
    until_ended,
)
from tests.conftest import Databases, settings_for

pytestmark = pytest.mark.anyio


def steps(page: str) -> list[tuple[str, str]]:
    """Read the journey: what, and when."""
    found = re.findall(r'<span class="what">([^<]*)</span><span class="time">([^<]*)</span>', page)
    return [(html.unescape(what), html.unescape(time)) for what, time in found]


async def test_an_answer_that_was_lost_is_drawn_with_the_time_that_was_waited(shop_settings: Settings) -> None:
    settings = settings_for(
        shop_settings.databases,  # type: ignore[attr-defined]
        bank_address=shop_settings.bank_address,
        call_budget_seconds=2,
        resolve_after_seconds=60,
    )
    async with open_shop(settings) as browsers:
        browser = browsers()
        await fill_basket(browser)
        sent = await browser.post("/payment", data=await payment_form(browser, TIMEOUT_AFTER_COMMIT))
        page = await browser.get(sent.headers["location"])

    placed, decided, answered, _ = steps(page.text)
    assert placed[0] == "Pedido recebido"
    assert re.fullmatch(r"Banco aprovou \+\d{1,3} ms", " ".join(decided))
    assert re.fullmatch(r"Resposta recebida na 2ª tentativa \+1,\d s", " ".join(answered))


async def test_a_bank_that_was_away_for_a_moment_is_drawn_as_a_second_try(shop_settings: Settings) -> None:
    async with open_shop(shop_settings) as browsers:
        browser = browsers()
        await fill_basket(browser)
        sent = await browser.post("/payment", data=await payment_form(browser, UNAVAILABLE_ONCE))
        page = await browser.get(sent.headers["location"])

    assert steps(page.text)[2][0] == "Resposta recebida na 2ª tentativa"
    assert [order["tries"] for order in await orders_of(shop_settings)] == [2]


async def test_the_zero_of_every_time_is_the_click_whatever_held_up_the_order(shop_settings: Settings) -> None:
    async with open_shop(shop_settings) as browsers:
        browser = browsers()
        await fill_basket(browser)
        form = await payment_form(browser)
        keeper = await shop_settings.databases.connect("checkout")  # type: ignore[attr-defined]
        held = keeper.transaction()
        await held.start()
        await keeper.execute("select 1 from basket for update")

        paying = asyncio.create_task(browser.post("/payment", data=form))
        async with asyncio.timeout(5):
            while not await keeper.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.01)
        released_at = await keeper.fetchval("select clock_timestamp()")
        await held.rollback()
        await paying
        await keeper.close()

    (order,) = await orders_of(shop_settings)
    assert order["created_at"] < released_at


async def test_while_the_bank_is_silent_the_page_tells_the_try_the_time_and_what_comes_next_and_then_how_it_ended(
    databases: Databases,
) -> None:
    bank = odd_bank()
    async with serving(bank) as address:
        settings = settings_for(
            databases, bank_address=address, call_budget_seconds=1, resolve_after_seconds=1, cancel_after_seconds=3
        )
        async with open_shop(settings) as browsers:
            browser = browsers()
            await fill_basket(browser)
            sent = await browser.post("/payment", data=await payment_form(browser))
            part = await browser.get(f"{sent.headers['location']}/status")
            order: dict[str, Any] = await until_ended(settings)
            ended = await browser.get(sent.headers["location"])

    assert order["status"] == "cancelled"
    assert re.search(
        r">\dª tentativa · há \d s<br>Sem resposta até 3 s, cancelamos por segurança e nada é cobrado\.</p>", part.text
    )
    assert re.search(r"O banco não respondeu em \d s; cancelamos por segurança e nada foi cobrado\.", ended.text)
    assert "Tentar de novo com o mesmo cartão" in ended.text
    assert "Banco recusou" not in ended.text
    assert order["tries"] >= 2


async def test_a_page_under_way_asks_again_without_scripts_and_only_what_is_asked_about_turns(
    databases: Databases,
) -> None:
    bank = odd_bank(gives_first=grpc.StatusCode.UNAVAILABLE)
    async with serving(bank) as address:
        settings = settings_for(databases, bank_address=address, call_budget_seconds=1, cancel_after_seconds=600)
        async with open_shop(settings) as browsers:
            browser = browsers()
            await fill_basket(browser)
            sent = await browser.post("/payment", data=await payment_form(browser))
            page = await browser.get(sent.headers["location"])

    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page.text
    assert re.findall(r'<li class="(\w*)"', page.text.partition("timeline")[2].partition("</ol>")[0]) == [
        "done",
        "now",
        "",
    ]


async def test_the_title_tells_the_state_and_the_order_leads_to_the_control_room(shop_settings: Settings) -> None:
    async with open_shop(shop_settings) as browsers:
        browser = browsers()
        await fill_basket(browser, "caneca-esmaltada")
        sent = await browser.post("/payment", data=await payment_form(browser))
        page, part = [await browser.get(sent.headers["location"] + path) for path in ("", "/status")]

    (order,) = await orders_of(shop_settings)
    title = "<title>Pago · R$\u00a089,90 · Loja</title>"
    assert title in page.text
    # The part that is fetched anew brings the page's title along.
    assert title in part.text
    assert f'href="{shop_settings.audit_home()}/payments/{order["payment_id"]}"' in page.text
