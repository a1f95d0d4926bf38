"""Whether a card is past is for the server's clock to say: the browser's clock and zone refuse nothing."""

from __future__ import annotations

import pytest

from codebank.bank.test_cards import TEST_CARDS
from tests.conftest import Databases
from tests.system import running_system
from tests.test_payment import CHROMIUM_ARGUMENTS, chromium

pytestmark = [pytest.mark.anyio, pytest.mark.browser]


@pytest.mark.parametrize(("zone", "shown"), [("Asia/Tokyo", "2034-12-31T19:00:00Z"), ("UTC", "2050-06-01T12:00:00Z")])
async def test_a_valid_card_is_taken_whatever_the_browsers_clock_says(
    databases: Databases, zone: str, shown: str
) -> None:
    path = chromium()
    from playwright.async_api import async_playwright

    async with running_system(databases, "bank", "checkout") as system, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        page = await (await browser.new_context(timezone_id=zone, locale="pt-BR")).new_page()
        await page.clock.set_fixed_time(shown)
        await page.goto(f"{system.settings.checkout_home()}/products/cafe-especial")
        await page.click(".buy .button")
        await page.goto(f"{system.settings.checkout_home()}/payment")
        await page.type("#number", TEST_CARDS[0].number)
        await page.type("#cvv", TEST_CARDS[0].cvv)

        await page.type("#expiry", "1220")
        await page.click("[data-pay]")
        past = await page.inner_text("#expiry-error")
        await page.fill("#expiry", "")
        await page.type("#expiry", "1234")
        await page.click("[data-pay]")
        await page.wait_for_url("**/orders/**")

        assert past != ""
        assert "Pago" in await page.inner_text("h1")
        await browser.close()
