"""The statement's pages and REST: one's own accounts only, sums, searches, export, sign-in."""

from __future__ import annotations

import html
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources

import httpx
import pytest
from openapi_spec_validator import validate

from codebank.settings import Settings
from tests.conftest import settings_for
from tests.statement.desk import ANA, BIA, PASSWORD, Desk, Story, open_desk, open_pages, payment_id, sign_in

pytestmark = pytest.mark.anyio
DOCUMENT = json.loads((resources.files("codebank.statement") / "openapi.json").read_bytes())


@dataclass
class Pages:
    """The pages, over a story that was told."""

    browser: Callable[[], httpx.AsyncClient]
    desk: Desk
    story: Story

    async def ana(self) -> httpx.AsyncClient:
        browser = self.browser()
        assert (await sign_in(browser)).status_code == 303
        return browser


@pytest.fixture
async def pages(settings: Settings) -> AsyncIterator[Pages]:
    story = Story().opened().paid(123_456 // 100).declined(5_000).paid(89_90, merchant_name="Livraria Açaí", parcelas=3)
    async with open_desk(settings) as desk, open_pages(settings) as browser:
        await desk.append(*story.paid(700).returned(5, 700).events, *Story(BIA).opened().paid(4_242).events)
        await desk.project()
        yield Pages(browser, desk, story)


async def test_the_statement_shows_lines_by_day_with_sums_and_what_is_left(pages: Pages) -> None:
    page = (await (await pages.ana()).get("/")).text

    assert "Olá, Ana" in page
    assert "Livraria Açaí" in page
    assert "em 3×" in page
    assert "Estornado" in page
    assert "3 lançamentos" in page
    assert "12:02" in page  # 15:02 UTC on the clock of São Paulo
    assert "restam R$\xa0987,66" in page


async def test_trap_a22_refused_attempts_stand_apart_and_in_no_sum(pages: Pages) -> None:
    page = (await (await pages.ana()).get("/")).text

    lines, refused = page.split('id="refused"')
    assert "R$\xa0102,24" in lines  # 12.34 + 89.90; the refused 50.00 and the returned 7.00 are left out
    assert "Cartão sem limite para esta compra." not in lines
    assert "Cartão sem limite para esta compra." in refused
    assert "Tentativas recusadas (1)" in refused


@pytest.mark.parametrize(("query", "shown"), [
    ("q=acai", ["Livraria"]), ("q=LIVRARIA", ["Livraria"]), ("q=0018", ["Livraria", "Padaria"]), ("q=nada", []),
    ("from=2026-11-21", []), ("to=2026-11-19", []), ("from=2026-11-20&to=2026-11-20", ["Livraria", "Padaria"]),
    ("q=%25", []), ("q=_", []),
])  # fmt: skip
async def test_search_and_dates_choose_lines(pages: Pages, query: str, shown: list[str]) -> None:
    page = (await (await pages.ana()).get(f"/?{query}")).text
    lines = page.split('id="lines"')[1].split('id="refused"')[0]

    assert [name for name in ("Livraria", "Padaria") if name in lines] == shown


async def test_a_day_that_a_page_shows_in_part_says_so_and_sums_what_is_shown(pages: Pages) -> None:
    ana, address, shown = await pages.ana(), "/?limit=2", []
    for _ in range(2):
        page = (await ana.get(address)).text
        shown.append(re.findall(r'class="sum figures">([^<]*)<', page))
        address = html.unescape((re.findall(r'href="([^"]*cursor=[^"]*)"', page) or [""])[-1])

    assert shown == [["2 de 3 · R$\xa089,90"], ["1 de 3 · R$\xa012,34"]]


async def test_a_clock_that_stepped_back_over_midnight_shows_each_day_once_and_no_amount_twice(
    settings: Settings,
) -> None:
    before, after = datetime(2026, 11, 21, 2, 59, tzinfo=UTC), datetime(2026, 11, 21, 3, 1, tzinfo=UTC)
    story = Story().opened()
    for number, at in enumerate([before, after, before, after]):
        story.paid(100 + number, created_at=at)
    async with open_desk(settings) as desk, open_pages(settings) as browser:
        await desk.append(*story.events)
        await desk.project()
        ana = browser()
        await sign_in(ana)

        page = (await ana.get("/")).text

    assert re.findall(r"<h3>([^<]*)</h3>", page) == ["21 nov", "20 nov"]
    assert re.findall(r'class="sum figures">([^<]*)<', page) == ["R$\xa02,04", "R$\xa02,02"]
    assert "4 lançamentos · R$\xa04,06" in page


async def test_the_cardholder_reads_the_description(pages: Pages) -> None:
    page = (await (await pages.ana()).get("/")).text

    assert page.count('<div class="about">Pão e café</div>') == 4  # one of them refused


async def test_trap_b25_nobody_reads_anothers_statement_by_any_way(pages: Pages) -> None:
    ana, nobody = await pages.ana(), pages.browser()

    for path in (
        f"/?account={BIA}", f"/statement.csv?account={BIA}", f"/changes?account={BIA}&after=0", f"/live?account={BIA}",
        f"/api/accounts/{BIA}", f"/api/accounts/{BIA}/lines", "/api/accounts/x", f"/?account={'0' * 36}",
    ):  # fmt: skip
        theirs = await ana.get(path)
        assert (path, theirs.status_code) == (path, 404)
        assert "42,42" not in theirs.text
        unknown = await nobody.get(path)
        assert unknown.status_code in ({303} if path.startswith("/?") else {401})
    assert [account["id"] for account in (await ana.get("/api/accounts")).json()["accounts"]] == [str(ANA)]


async def test_trap_a24_no_page_shows_more_of_a_card_than_its_mask(pages: Pages) -> None:
    ana = await pages.ana()

    for path in ("/", "/statement.csv", "/changes?after=0", "/api/accounts", f"/api/accounts/{ANA}/lines"):
        answer = await ana.get(path)
        assert "•••• 0018" in answer.text or path == "/api/accounts"
        assert "4000001000000018" not in answer.text


async def test_the_export_has_what_the_filters_choose(pages: Pages) -> None:
    answer = await (await pages.ana()).get("/statement.csv?q=acai")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert '"2026-11-20";"12:04:00";"Livraria Açaí";' in answer.text
    assert ';"89,90";' in answer.text
    assert len(answer.text.splitlines()) == 2


async def test_rest_gives_lines_in_pages(pages: Pages) -> None:
    ana = await pages.ana()
    found: list[str] = []
    cursor = None
    while True:
        query = f"limit=1&status=all{f'&cursor={cursor}' if cursor else ''}"
        page = (await ana.get(f"/api/accounts/{ANA}/lines?{query}")).json()
        found += [line["payment_id"] for line in page["lines"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert found == [str(payment_id(ANA, number)) for number in (5, 4, 3, 2)]


async def test_older_pages_lead_back_to_newer_ones_line_by_line(pages: Pages) -> None:
    def amounts(page: str) -> list[str]:
        section = page.split('id="lines"')[1].split('id="refused"')[0]
        return re.findall(r'class="amount[^"]*"><span class="symbol">R\$&nbsp;</span>([^<]*)<', section)

    def link(page: str, rel: str) -> str:
        return html.unescape(re.findall(rf'href="([^"]*)" rel="{rel}"', page)[0])

    ana = await pages.ana()
    first = (await ana.get("/?limit=1")).text
    second = (await ana.get(link(first, "next"))).text
    third = (await ana.get(link(second, "next"))).text
    beyond = (await ana.get("/?limit=1&cursor=1")).text

    assert [amounts(page) for page in (first, second, third, beyond)] == [["7"], ["89"], ["12"], []]
    assert amounts((await ana.get(link(third, "prev"))).text) == ["89"]
    assert amounts((await ana.get(link(second, "prev"))).text) == ["7"]
    assert amounts((await ana.get(link(beyond, "prev"))).text) == ["12"]
    assert 'rel="prev"' not in first
    assert 'rel="next"' not in third
    assert "Não há lançamentos mais antigos" in beyond
    assert 'id="refused-lines"' in first
    assert 'id="refused-lines"' not in second


async def test_a_start_after_the_end_is_named_beside_the_field_and_both_stay(pages: Pages) -> None:
    ana = await pages.ana()

    for path in ("/", "/statement.csv"):
        answer = await ana.get(f"{path}?from=2026-11-24&to=2026-11-23&q=caf%C3%A9", headers={"accept": "text/html"})

        assert answer.status_code == 422
        field = re.search(r'<input id="from"[^>]*>', answer.text)
        assert field is not None
        assert 'aria-invalid="true" aria-describedby="from-error"' in field[0]
        assert '<span class="error" id="from-error">O início está depois do fim.</span>' in answer.text
        for kept in ('value="2026-11-24"', 'value="2026-11-23"', 'value="café"'):
            assert kept in answer.text
        assert "cobrad" not in answer.text.split("<main")[1]
        assert "Nenhum lançamento" not in answer.text
        assert "R$&nbsp;</span>" in answer.text  # what is used of the limit stays in view


@pytest.mark.parametrize(("query", "error"), [
    ("from=2026-02-30", 'id="from-error">Escolha um dia do calendário.'), ("to=x", 'id="to-error">Escolha um dia'),
    ("q=" + "x" * 81, 'id="q-error">Use até 80 letras'), ("cursor=x", "Corrija o filtro"), ("limit=0", "Corrija"),
])  # fmt: skip
async def test_whatever_does_not_fit_is_named_on_the_page(pages: Pages, query: str, error: str) -> None:
    answer = await (await pages.ana()).get(f"/?{query}")

    assert answer.status_code == 422
    assert error in answer.text


async def test_all_refused_attempts_can_be_reached_and_the_fold_never_opens_by_itself(pages: Pages) -> None:
    story = Story(ANA, list(pages.story.events), pages.story.used_minor)
    before = len(story.events)
    for number in range(22):
        story.declined(1_000 + number)
    await pages.desk.append(*story.events[before:])
    await pages.desk.project()
    ana = await pages.ana()

    page = (await ana.get("/")).text
    changed = (await ana.get(f"/changes?after={before + 20}")).json()["html"]
    everything = html.unescape(re.findall(r'href="([^"]*status=declined[^"]*)"', page)[0])
    refused = (await ana.get(everything)).text

    assert "Tentativas recusadas (23)" in page
    assert "Ver todas as 23" in page
    assert page.split('id="refused"')[1].count('class="line"') == 20
    assert "<details open" not in changed + page
    assert '<details id="refused-lines" class="folded">' in changed
    assert "2 novas" in changed
    assert 'data-announce="Tentativa recusada: Padaria São João, R$\xa010,21"' in changed
    assert refused.count('class="line"') == 23
    assert "Nada disto foi cobrado" in refused
    assert 'class="sum figures"></span>' in refused


async def test_signing_in_leads_back_to_where_one_was(pages: Pages) -> None:
    browser, place = pages.browser(), f"/?account={ANA}&q=acai"

    sent_away = await browser.get(place)
    form = await browser.get(sent_away.headers["location"])
    kept = html.unescape(re.findall(r'name="return_to" value="(/\?[^"]*)"', form.text.split("<main")[1])[0])
    wrong = await browser.post("/sign-in", data={"email": "ana@x.example", "password": "no", "return_to": kept})
    back = await browser.post("/sign-in", data={"email": "ana@x.example", "password": PASSWORD, "return_to": kept})

    assert kept == place
    assert html.escape(place) in wrong.text
    assert back.headers["location"] == place


@pytest.mark.parametrize("elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "/\t/evil", "x"])
async def test_signing_in_leads_nowhere_else(pages: Pages, elsewhere: str) -> None:
    answer = await pages.browser().post(
        "/sign-in", data={"email": "ana@x.example", "password": PASSWORD, "return_to": elsewhere}
    )

    assert answer.headers["location"] == "/"


async def test_an_export_after_the_session_ended_says_so_and_leads_back_to_the_page(pages: Pages) -> None:
    ana = await pages.ana()
    await pages.desk.pool.execute("delete from session")

    answer = await ana.get("/statement.csv?q=acai", headers={"accept": "text/html,*/*;q=0.8"})
    page = await ana.get("/?q=acai", follow_redirects=True)

    assert answer.status_code == 401
    for shown in (answer, page):
        assert "Sua sessão terminou. Entre de novo" in shown.text
        assert 'name="return_to" value="/?q=acai"' in shown.text
    assert (await ana.get("/statement.csv", headers={"accept": "application/json"})).json()["status"] == 401


BAD_QUERIES = [
    ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("limit=" + "9" * 40, "limit"),
    ("cursor=-1", "cursor"), ("cursor=x", "cursor"), ("from=yesterday", "from"), ("to=2026-13-01", "to"),
    ("from=2026-11-24&to=2026-11-23", "from"), ("status=paid", "status"), ("q=%00", "q"), ("q=" + "x" * 81, "q"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "field"), BAD_QUERIES)
async def test_a_bad_query_is_named_and_never_breaks(pages: Pages, query: str, field: str) -> None:
    ana = await pages.ana()

    rest, page = await ana.get(f"/api/accounts/{ANA}/lines?{query}"), await ana.get(f"/?{query}")

    assert (rest.status_code, page.status_code) == (422, 422)
    assert rest.json()["errors"][0]["field"] == field


async def test_an_arrival_tells_of_no_account_and_only_the_shops_pages_may_read_it(pages: Pages) -> None:
    browser = pages.browser()

    there = await browser.get(f"/api/arrivals/{payment_id(ANA, 2)}")
    not_yet = await browser.get(f"/api/arrivals/{payment_id(ANA, 77)}")

    assert set(there.json()) == {"arrived", "status", "milliseconds_after_commit"}
    assert (there.json()["arrived"], not_yet.json()["arrived"]) == (True, False)
    assert there.headers["access-control-allow-origin"] == "http://localhost:8000"
    assert (await browser.get("/api/arrivals/x")).status_code == 404


async def test_the_description_is_valid_and_names_every_route(pages: Pages) -> None:
    served = (await pages.browser().get("/api/openapi.json")).json()

    validate(served)
    assert served == DOCUMENT
    assert set(served["paths"]) == {
        "/api/sessions", "/api/accounts", "/api/accounts/{account_id}", "/api/accounts/{account_id}/lines",
        "/api/arrivals/{payment_id}", "/api/openapi.json",
    }  # fmt: skip


async def test_a_wrong_password_and_an_unknown_name_are_answered_the_same(pages: Pages) -> None:
    wrong = await sign_in(pages.browser(), password="wrong")
    unknown = await sign_in(pages.browser(), "nobody@x.example")

    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text == unknown.text
    assert "set-cookie" not in wrong.headers


async def test_guessing_ends_after_five_tries_and_says_for_how_long(pages: Pages) -> None:
    browser = pages.browser()

    tries = [(await sign_in(browser, password=f"guess {number}")).status_code for number in range(6)]
    even_right = await sign_in(browser)
    other = await sign_in(browser, "bia@x.example")

    assert tries == [401] * 5 + [429]
    assert even_right.status_code == 429
    assert 0 < int(even_right.headers["retry-after"]) <= 900
    assert other.status_code == 303


async def test_a_session_changes_with_each_sign_in_ends_with_sign_out_and_is_kept_hashed(pages: Pages) -> None:
    browser = await pages.ana()
    first = browser.cookies["session"]
    await sign_in(browser)
    second = browser.cookies["session"]

    old = await pages.browser().get("/", headers={"cookie": f"session={first}"})
    stored = await pages.desk.pool.fetch("select token_hash from session")
    await browser.post("/sign-out")
    after = await pages.browser().get("/", headers={"cookie": f"session={second}"})

    assert first != second
    assert old.status_code == after.status_code == 303
    assert len(stored) == 1
    assert second.encode() not in stored[0]["token_hash"]


async def test_a_session_ends_by_itself(settings: Settings) -> None:
    short = settings_for(settings.databases, session_hours=0)  # type: ignore[attr-defined]
    async with open_pages(short) as browsers:
        browser = browsers()
        await sign_in(browser)

        assert (await browser.get("/")).headers["location"] == "/sign-in"


async def test_trap_c08_a_clock_set_back_locks_nobody_out_for_longer(pages: Pages) -> None:
    browser, pool = pages.browser(), pages.desk.pool
    for number in range(6):
        await sign_in(browser, password=f"guess {number}")
    await pool.execute("update sign_in_attempt set since = now() + interval '1 day 1 minute'")

    refused = await sign_in(browser)

    assert refused.status_code == 429
    assert 890 <= int(refused.headers["retry-after"]) <= 900
    assert await pool.fetchval("select count(*) from sign_in_attempt where since > now()") == 0
    await pool.execute("update sign_in_attempt set since = since - interval '16 minutes'")
    assert (await sign_in(browser)).status_code == 303


async def test_trap_c08_a_session_lasts_no_longer_because_the_clock_was_set_back(pages: Pages) -> None:
    ana, pool = await pages.ana(), pages.desk.pool
    await pool.execute("update session set expires_at = expires_at + interval '1 year'")

    assert (await ana.get("/api/accounts")).status_code == 200

    hours = settings_for(pages.desk.settings.databases).session_hours  # type: ignore[attr-defined]
    rest = await pool.fetchval("select expires_at - now() from session")
    assert rest <= timedelta(hours=hours)


async def test_a_program_signs_in_and_out_with_a_token(pages: Pages) -> None:
    program = pages.browser()
    made = await program.post("/api/sessions", json={"email": "ANA@x.example ", "password": PASSWORD})
    program.cookies.clear()
    bearer = {"authorization": f"Bearer {made.json()['token']}"}

    with_token = await program.get("/api/accounts", headers=bearer)
    await program.delete("/api/sessions", headers=bearer)
    after = await program.get("/api/accounts", headers=bearer)

    assert (made.status_code, with_token.status_code, after.status_code) == (201, 200, 401)
    assert with_token.json()["accounts"][0]["available_minor"] == 100_000 - 1_234 - 8_990


@pytest.mark.parametrize(
    "body", [{}, {"email": "", "password": "x"}, {"email": "x"}, {"email": 1, "password": "x"}, []]
)
async def test_a_bad_sign_in_is_named(pages: Pages, body: object) -> None:
    assert (await pages.browser().post("/api/sessions", json=body)).status_code == 422


@pytest.mark.parametrize("email", ["\x00", "x" * 5000, "é@ü", "' or 1=1 --"])
async def test_an_odd_name_only_does_not_fit(pages: Pages, email: str) -> None:
    assert (await sign_in(pages.browser(), email)).status_code == 401


async def test_another_sites_page_cannot_sign_anybody_out(pages: Pages) -> None:
    browser = await pages.ana()

    answer = await browser.post("/sign-out", headers={"sec-fetch-site": "cross-site"})

    assert answer.status_code == 403
    assert (await browser.get("/")).status_code == 200


async def test_a_cardholder_whose_account_was_not_told_of_yet_is_told_so(settings: Settings) -> None:
    async with open_pages(settings) as browsers:
        browser = browsers()
        await sign_in(browser)

        assert "Sua conta ainda não chegou aqui" in (await browser.get("/")).text


async def test_times_are_stored_with_their_zone(pages: Pages) -> None:
    at = await pages.desk.pool.fetchval("select min(occurred_at) from line")

    assert at == datetime(2026, 11, 20, 15, 2, tzinfo=UTC)
