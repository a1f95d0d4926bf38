"""The control room: a payment's journey, live rates, differences in the reader's words, and sides that are away."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from codebank.audit.control.journey import PaymentSides, SeenEvent, Standing, bars_of, journey_of
from codebank.audit.control.rates import Rates, count_text, rate_text
from codebank.audit.control.web import pause_after
from codebank.audit.proof.reconcile import SENTENCES
from codebank.bank.test_cards import TEST_CARDS
from codebank.errors import CodebankError
from codebank.runtime.web.language import load_words
from codebank.settings import Settings
from tests.audit.test_proof import hurt, shop_around
from tests.checkout.shop import card_body
from tests.conftest import Databases
from tests.system import System, running_system
from tests.test_payment import CHROMIUM_ARGUMENTS, chromium

pytestmark = pytest.mark.anyio
REFUSED = next(card.number for card in TEST_CARDS if card.outcome == "limit_exceeded")
NOON = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)


@contextlib.asynccontextmanager
async def control_room(system: System, language: str = "pt") -> AsyncIterator[httpx.AsyncClient]:
    """Give a browser of the control room."""
    home = system.settings.audit_home().replace("localhost", "127.0.0.1")
    async with httpx.AsyncClient(base_url=home, cookies={"language": language}, timeout=15) as browser:
        yield browser


async def buy(system: System, number: str = TEST_CARDS[0].number) -> dict:
    async with system.shop() as shop:
        body = {"items": [{"product": "caneca-esmaltada", "quantity": 1}], "card": card_body(number)}
        answer = await shop.post("/api/orders", json=body, headers={"idempotency-key": str(uuid4())})
        assert answer.status_code == 201, answer.text
        order: dict = answer.json()
        return order


async def test_a_payment_is_followed_through_every_stage_by_its_id_and_by_its_orders(databases: Databases) -> None:
    async with running_system(databases) as system:
        order = await buy(system)
        await system.proven()
        async with control_room(system) as browser:
            journey = (await browser.get(f"/api/payments/{order['payment_id']}")).json()
            of_order = (await browser.get(f"/api/payments/{order['id']}")).json()
            page = await browser.get(f"/payments/{order['payment_id']}")
            room = (await browser.get("/")).text

    assert [stage["name"] for stage in journey["stages"]] == ["order", "bank", "event", "log", "line"]
    assert {stage["standing"] for stage in journey["stages"]} == {"done"}
    assert all(stage["after_milliseconds"] >= 0 for stage in journey["stages"])
    assert journey == of_order
    assert journey["is_complete"] is True
    assert "hx-get" not in page.text
    assert journey["stages"][3]["offset"] >= 0
    assert "codebank.payment.approved" in page.text
    assert "•••• " in page.text
    assert TEST_CARDS[0].number not in page.text
    assert f'href="/payments/{order["payment_id"]}"' in room


async def test_what_is_missing_waits_and_the_page_asks_again(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "audit") as system:
        order = await buy(system)
        async with control_room(system) as browser:
            waiting = (await browser.get(f"/api/payments/{order['payment_id']}")).json()
            page = (await browser.get(f"/payments/{order['payment_id']}")).text
            await system.start("relay", "projector")
            await system.proven()
            done = await browser.get(f"/payments/{order['payment_id']}/now")

    standings = {stage["name"]: stage["standing"] for stage in waiting["stages"]}
    assert standings == {"order": "done", "bank": "done", "event": "done", "log": "waiting", "line": "waiting"}
    assert 'hx-trigger="every 2s"' in page
    assert "ainda falta" in page
    assert "hx-get" not in done.text
    assert "No extrato" in done.text


async def test_a_refused_payment_has_its_reason_and_still_reaches_the_statement(databases: Databases) -> None:
    async with running_system(databases) as system:
        order = await buy(system, REFUSED)
        await system.proven()
        async with control_room(system, "en") as browser:
            journey = (await browser.get(f"/api/payments/{order['id']}")).json()

    assert journey["status"] == "declined"
    assert [stage["standing"] for stage in journey["stages"]] == ["done", "refused", "done", "done", "done"]


async def test_unknown_and_malformed_ids_say_so(databases: Databases) -> None:
    async with (
        running_system(databases, "bank", "checkout", "relay", "projector", "audit") as system,
        control_room(system) as browser,
    ):
        unknown, broken = await browser.get(f"/payments/{uuid4()}"), await browser.get("/payments/nada")
        found = await browser.get("/payments", params={"id": " 01890000-0000-7000-8000-000000000000 "})
        odd = await browser.get("/payments", params={"id": "<b>"})
        no_document = await browser.get(f"/api/payments/{uuid4()}")
        bad_document = await browser.get("/api/payments/nada")

    assert (unknown.status_code, broken.status_code, odd.status_code) == (404, 422, 422)
    assert "Pagamento não encontrado" in unknown.text
    assert "quatro hifens" in broken.text
    assert "<b>" not in odd.text
    assert found.headers["location"] == "/payments/01890000-0000-7000-8000-000000000000"
    assert (no_document.status_code, bad_document.status_code) == (404, 422)


@pytest.mark.parametrize("side", ["checkout", "bank", "statement", "log"])
async def test_a_side_that_is_away_is_named_and_nothing_breaks(databases: Databases, side: str) -> None:
    async with running_system(databases) as system:
        order = await buy(system)
        await system.proven()
        async with control_room(system) as browser, away(databases, side):
            answers = [await browser.get(path) for path in ("/", "/now", f"/payments/{order['payment_id']}")]
            proof = await browser.get("/api/proof")

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert proof.status_code == 503
    assert "não responde agora" in answers[2].text.lower()


@contextlib.asynccontextmanager
async def away(databases: Databases, side: str) -> AsyncIterator[None]:
    """Close a database to everybody, as its keeper would."""
    name, keeper = databases.names[side], databases.server.dsn("postgres", "postgres")
    await hurt(keeper, f'alter database "{name}" with allow_connections false')
    await hurt(
        keeper, f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' and usename = 'audit'"
    )
    try:
        yield
    finally:
        await hurt(keeper, f'alter database "{name}" with allow_connections true')


async def test_trap_c11_a_proof_that_nobody_renews_is_not_shown_as_one_of_now(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codebank.audit.control.web._PROOF_SECONDS", 0.02)
    async with running_system(databases, "bank", "checkout", "audit") as system, control_room(system) as browser:

        async def shown(words: str) -> str:
            async with asyncio.timeout(20):
                while words not in (page := (await browser.get("/now")).text):
                    await asyncio.sleep(0.02)
            return page

        await shown("Todos concordam")
        async with away(databases, "statement"):
            page = await shown("Sem prova nova")
        await shown("Todos concordam")
        # What is known to differ is still told while nobody can look again.
        await hurt(databases.dsn("bank", "postgres"), "update account set sequence = sequence + 1")
        await shown("Há diferenças")
        async with away(databases, "statement"):
            differs = await shown("Uma parte não responde")

    assert "Todos concordam" not in page
    assert "Provado às" in page
    assert "Há diferenças" in differs


@pytest.mark.parametrize(("proof_seconds", "pause_seconds"), [(0.05, 10), (2, 38), (20, 300)])
def test_the_more_there_is_to_prove_the_longer_is_the_pause(proof_seconds: float, pause_seconds: float) -> None:
    assert pause_after(proof_seconds) == pause_seconds


async def test_trap_c02_a_fault_of_the_proof_ends_the_role_and_is_no_side_that_is_away(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codebank.audit.control.web._PROOF_SECONDS", 0.02)
    async with running_system(databases, "audit") as system:
        task, _ = system.running.pop("audit")
        await hurt(databases.dsn("checkout", "postgres"), "alter table orders rename column total_minor to sum_minor")
        try:
            with pytest.raises(asyncpg.UndefinedColumnError, match="total_minor"):
                async with asyncio.timeout(20):
                    await task
        finally:
            await hurt(
                databases.dsn("checkout", "postgres"), "alter table orders rename column sum_minor to total_minor"
            )


async def test_the_room_shows_rates_links_and_differences_in_the_readers_words(databases: Databases) -> None:
    async with running_system(databases, grafana_url="https://grafana.example/d/1") as system:
        await shop_around(system, 6)
        await system.proven()
        await hurt(databases.dsn("statement", "postgres"), "update line set amount_minor = amount_minor + 1")
        await system.stop("audit")
        await system.start("audit")
        async with control_room(system) as browser:
            page = await browser.get("/")
            while "Há diferenças" not in page.text:
                page = await browser.get("/now")
            rates = (await browser.get("/api/flow")).json()
            home = (await browser.get("/")).text

    assert "rates_tenths_per_second" in rates
    assert re.search(r"no banco (aprovado|recusado) R\$\xa0\d+,\d\d", page.text)
    assert "bank has" not in page.text
    assert "Cada pedido pago tem seu pagamento" in page.text
    assert 'href="https://grafana.example/d/1"' in home
    assert "Kibana" not in home


def test_rates_are_differences_of_the_last_seconds_and_never_negative() -> None:
    rates = Rates()
    rates.add(0, {"payments": 100, "lines": None})
    assert rates.tenths() == {}
    rates.add(2000, {"payments": 125, "lines": 5})
    assert rates.tenths() == {"payments": 125}
    rates.add(4000, {"payments": 3, "lines": 5})
    assert rates.tenths().get("payments") is None or rates.tenths()["payments"] == 0
    rates.add(6000, {"payments": 5, "lines": 5})
    assert rates.tenths() == {"payments": 10, "lines": 0}
    rates.add(60_000, {"payments": 9, "lines": 9})
    assert rates.tenths() == {}


def test_rates_and_counts_are_written_as_the_language_does() -> None:
    assert [rate_text(tenths, "pt") for tenths in (0, 5, 123, 12_345, 123_456)] == [
        "0/s", "0,5/s", "12,3/s", "1.234/s", "12,3k/s",
    ]  # fmt: skip
    assert rate_text(12_345, "en") == "1,234/s"
    assert (count_text(7001, "pt"), count_text(7001, "en")) == ("7.001", "7,001")
    assert count_text(1_250_000, "pt") == "1,2 M"


def test_every_difference_has_words_in_both_languages() -> None:
    words = load_words("codebank.audit.control")

    for name, sentence in SENTENCES.items():
        values = {value.removesuffix("_minor") for value in re.findall(r"{(\w+)}", sentence)}
        for language in ("pt", "en"):
            assert set(re.findall(r"{(\w+)}", words.sentences[language][f"difference.{name}"])) == values, name


def test_a_refund_is_a_change_with_stages_of_its_own_and_a_record_put_aside_has_failed() -> None:
    payment: dict[str, Any] = {
        "payment_id": UUID(int=1), "status": "refunded", "decline_code": None, "amount_minor": 8990,
        "currency": "BRL", "merchant_name": "Loja", "card_masked": "•••• 0001", "created_at": NOON,
        "updated_at": NOON + timedelta(seconds=2), "version": 2,
    }  # fmt: skip
    later = payment["updated_at"]
    on_log = NOON + timedelta(milliseconds=8)
    events = [
        SeenEvent(1, 1, "codebank.payment.approved", "approved", NOON, 3, 7, on_log, "ab" * 16),
        SeenEvent(2, 2, "codebank.payment.refunded", "refunded", later, 3, 9, later),
    ]
    line = {"sequence": 1, "first_sequence": 1, "projected_at": NOON + timedelta(milliseconds=20)}

    journey = journey_of(PaymentSides(None, payment, events, line, {(3, 9): "no such type"}, None, False, frozenset()))

    assert journey is not None
    assert [(stage.name, stage.standing) for stage in journey.stages] == [
        ("bank", Standing.DONE), ("event", Standing.DONE), ("log", Standing.DONE), ("line", Standing.DONE),
        ("bank", Standing.DONE), ("event", Standing.DONE), ("log", Standing.DONE), ("line", Standing.FAILED),
    ]  # fmt: skip
    assert [stage.after_milliseconds for stage in journey.stages] == [0, 0, 8, 20, 2000, 2000, 2000, None]
    assert journey.stages[-1].detail == "no such type"
    assert journey.trace_id == "ab" * 16
    assert all(bar is None or bar[0] + bar[1] <= 1006 for bar in bars_of(journey))


@pytest.mark.parametrize("address", ["javascript:alert(1)", "grafana.example", "ftp://x", "https://me:pw@x"])
def test_a_link_is_an_address_of_a_browser(address: str) -> None:
    with pytest.raises(CodebankError, match="CODEBANK_JAEGER_URL"):
        Settings.load({"CODEBANK_JAEGER_URL": address})


@pytest.mark.browser
async def test_an_open_timeline_completes_by_itself_then_asks_no_more(databases: Databases) -> None:
    path = chromium()
    from playwright.async_api import async_playwright

    async with (
        running_system(databases, "bank", "checkout", "statement", "audit") as system,
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        page = await browser.new_page(locale="pt-BR", viewport={"width": 390, "height": 844})
        order = await buy(system)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        await page.goto(system.settings.audit_home())
        await page.fill("#find", order["payment_id"])
        await page.click(".find button")
        await page.wait_for_selector(".stages .waiting")
        await page.evaluate("window.stillTheSamePage = true")

        await system.start("relay", "projector")
        await page.wait_for_selector(".stages:not(:has(.waiting))")

        assert await page.evaluate("window.stillTheSamePage") is True
        assert await page.locator("[hx-get]").count() == 0
        assert await page.locator(".stages li.done").count() == 5
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert "Do começo ao fim" in await page.inner_text("#announcer")
        assert problems == []
        await browser.close()
