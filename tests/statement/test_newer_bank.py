"""A bank that is newer than this statement: what has no name here is shown as it came, and decides nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import httpx
import jsonschema
import pytest

from codebank.settings import Settings
from tests.statement.desk import ANA, Desk, Story, open_desk, open_pages, payment_id, sign_in
from tests.statement.test_pages import DOCUMENT

pytestmark = pytest.mark.anyio
NEUTRAL = {
    "pt": (
        "Situação não reconhecida; não entra nos totais.",
        "Recusado pelo banco por um motivo não reconhecido.",
    ),
    "en": (
        "State not recognised; left out of the totals.",
        "Refused by the bank for a reason not recognised here.",
    ),
}


@dataclass
class Pages:
    """The pages, over an account of which a newer bank told."""

    browser: Callable[[], httpx.AsyncClient]
    desk: Desk
    story: Story

    async def ana(self, language: str = "pt") -> httpx.AsyncClient:
        browser = self.browser()
        browser.cookies.set("language", language)
        assert (await sign_in(browser)).status_code == 303
        return browser


@pytest.fixture
async def pages(settings: Settings) -> AsyncIterator[Pages]:
    story = Story().opened().paid(1_234)
    story.told("codebank.payment.disputed", "in_dispute", 5_000, merchant_name="Livraria Açaí")
    story.told("codebank.payment.declined", "declined", 700, decline_code="moon_phase")
    story.told("codebank.payment.declined", "declined", 800, decline_code=None)
    story.told("codebank.payment.approved", "approved", 123_456, currency="XTS")
    story.told("codebank.payment.approved", "approved", 999, currency="=1+1")
    story.account_told("codebank.account.frozen", status="frozen")
    async with open_desk(settings) as desk, open_pages(settings) as browser:
        await desk.append(*story.events)
        await desk.project()
        yield Pages(browser, desk, story)


@pytest.mark.parametrize("language", ["pt", "en"])
async def test_trap_c04_what_has_no_name_is_shown_in_neutral_words_with_its_code(pages: Pages, language: str) -> None:
    answer = await (await pages.ana(language)).get("/")

    assert answer.status_code == 200
    lines, refused = answer.text.split('id="refused"')
    unnamed_status, unnamed_reason = NEUTRAL[language]
    assert lines.count(unnamed_status) == 1
    assert '<code class="muted">in_dispute</code>' in lines
    assert refused.count(unnamed_reason) == 2
    assert re.findall("<code.*?</code>", refused) == ['<code class="muted">moon_phase</code>']


async def test_trap_c04_an_amount_of_an_unknown_currency_is_shown_in_its_minor_units(pages: Pages) -> None:
    page = (await (await pages.ana()).get("/")).text

    shown = re.sub(r"<[^>]*>|&nbsp;", " ", page)
    assert re.search(r"XTS\s+123\.456\s+unidades menores", shown)


async def test_trap_c01_what_is_not_understood_is_in_no_sum(pages: Pages) -> None:
    page = (await (await pages.ana()).get("/")).text

    day = re.search(r'class="sum figures">R\$\s*([\d.,]+)<', page)
    whole = re.search(r'class="muted figures">4 lançamentos · R\$\s*([\d.,]+)<', page)
    assert day is not None
    assert whole is not None
    # One payment was approved in the account's own currency.
    assert (day[1], whole[1]) == ("12,34", "12,34")


async def test_rest_tells_it_as_it_came_and_as_the_description_says(pages: Pages) -> None:
    ana = await pages.ana()

    accounts = (await ana.get("/api/accounts")).json()["accounts"]
    lines = (await ana.get(f"/api/accounts/{ANA}/lines?status=all")).json()["lines"]
    arrival = (await ana.get(f"/api/arrivals/{payment_id(ANA, 3)}")).json()

    assert (accounts[0]["status"], arrival["status"]) == ("frozen", "in_dispute")
    told = [(line["status"], line["decline_code"], line["amount"]["currency"]) for line in reversed(lines)]
    assert told == [
        ("approved", None, "BRL"), ("in_dispute", None, "BRL"), ("declined", "moon_phase", "BRL"),
        ("declined", None, "BRL"), ("approved", None, "XTS"), ("approved", None, "=1+1"),
    ]  # fmt: skip
    schemas = DOCUMENT["components"]["schemas"]
    for line in lines:
        jsonschema.validate(line, schemas["Line"])
    jsonschema.validate(accounts[0], schemas["Account"])


async def test_the_export_writes_no_amount_that_it_would_have_to_guess_and_no_formula(pages: Pages) -> None:
    answer = await (await pages.ana("en")).get("/statement.csv?status=all")

    assert answer.status_code == 200
    rows = list(csv.DictReader(answer.content.decode("utf-8-sig").splitlines()))
    found = [(row["status"], row["amount"], row["currency"]) for row in reversed(rows)]
    assert found == [
        ("approved", "12.34", "BRL"), ("in_dispute", "50.00", "BRL"), ("declined", "7.00", "BRL"),
        ("declined", "8.00", "BRL"), ("approved", "123456 minor", "XTS"), ("approved", "999 minor", "'=1+1"),
    ]  # fmt: skip


async def test_an_open_page_is_sent_it_too(pages: Pages) -> None:
    ana = await pages.ana()
    before = len(pages.story.events)
    pages.story.told("codebank.payment.held", "held", 300)

    await pages.desk.append(*pages.story.events[before:])
    await pages.desk.project()
    changed = (await ana.get(f"/changes?account={ANA}&after={before}")).json()

    assert changed["after"] == str(before + 1)
    assert '<code class="muted">held</code>' in changed["html"]


async def test_a_refused_payment_in_another_currency_is_not_shown_in_the_accounts(settings: Settings) -> None:
    story = Story().opened().declined(5_000, currency="USD", decline_code="currency_not_held")
    async with open_desk(settings) as desk, open_pages(settings) as browser:
        await desk.append(*story.events)
        await desk.project()
        ana = browser()
        await sign_in(ana)

        page = (await ana.get("/")).text

    refused = re.sub(r"<[^>]*>|&nbsp;", " ", page.split('id="refused"')[1])
    assert re.search(r"US\$\s+50\s*,\s*00", refused)
