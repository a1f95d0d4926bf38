"""No stored row makes a page fail, whoever wrote it: every page, export and answer is asked for in both languages."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx
import pytest

from codebank.settings import Settings
from tests.statement.desk import ANA, Desk, Story, open_desk, open_pages, sign_in

pytestmark = pytest.mark.anyio

LARGEST: Final = 2**63 - 1
LONG: Final = "x" * 200_000
ODD_TEXTS: Final = (
    "", " ", "\u202e\u2028\u0085\x0b\x1b\x7f", "<script>{{ 7 }}</script>", "=1+1", "{amount}", "٣", LONG,
)  # fmt: skip
#: Column → what nobody expects to find there.
STRANGE: Final[dict[str, tuple[str, ...]]] = {
    "amount_minor": (f"{LARGEST}", f"{-LARGEST - 1}", "0", "-1"),
    "refunded_minor": (f"{LARGEST}", f"{-LARGEST - 1}"),
    "available_minor": (f"{LARGEST}", f"{-LARGEST - 1}"),
    "parcelas": ("0", "-1", f"{2**31 - 1}"),
    "status": ("'declined'", "'refunded'", "'in_dispute'"),
    "decline_code": ("null", "'limit_exceeded'"),
    "currency": ("'XTS'", "'brl'", "'BRL '"),
    "occurred_at": (
        "'infinity'", "'-infinity'", "'0044-03-15 12:00+00 BC'", "'294276-12-31 12:00+00'", "'0001-01-01 00:00+00'",
        "'9999-12-31 23:59:59+00'",
    ),
    "local_day": ("'infinity'", "'-infinity'", "'0044-03-15 BC'", "'5874897-12-31'", "'0001-01-01'", "'9999-12-31'"),
    "projected_at": ("'infinity'", "'-infinity'", "'0044-03-15 12:00+00 BC'"),
    "sequence": (f"{LARGEST}", "-1", "0"),
    "first_sequence": (f"{LARGEST}", f"{-LARGEST - 1}", "0"),
}  # fmt: skip
ACCOUNT_TEXTS: Final = ("holder_name", "status", "currency")
TEXTS: Final = (
    "merchant_name", "merchant_category", "description", "status", "decline_code", "currency", "card_masked",
)  # fmt: skip
ACCOUNTS: Final = {
    "limit_minor": (f"{LARGEST}", f"{-LARGEST - 1}", "0"),
    "used_minor": (f"{LARGEST}", f"{-LARGEST - 1}", "0"),
    "updated_at": ("'infinity'", "'-infinity'"),
}
PATHS: Final = (
    f"/?account={ANA}", f"/?account={ANA}&from=2026-11-20&to=2026-11-20", f"/?account={ANA}&q=a&status=all",
    f"/statement.csv?account={ANA}&status=all", f"/changes?account={ANA}&after=1",
    "/api/accounts", f"/api/accounts/{ANA}", f"/api/accounts/{ANA}/lines?status=all&limit=1",
)  # fmt: skip


@dataclass
class Pages:
    """The pages, over three lines of one account."""

    #: Language → Ana, signed in.
    people: Mapping[str, httpx.AsyncClient]
    desk: Desk

    async def all_answer(self, what: str) -> None:
        payments = [row[0] for row in await self.desk.pool.fetch("select payment_id from line")]
        for language, ana in self.people.items():
            for path in (*PATHS, *(f"/api/arrivals/{payment}" for payment in payments)):
                answer = await ana.get(path)
                assert answer.status_code == 200, f"{what[:80]}: {path} in {language}: {answer.text[:300]}"


@pytest.fixture
async def pages(settings: Settings) -> AsyncIterator[Pages]:
    async with open_desk(settings) as desk, open_pages(settings) as browser:
        await desk.append(*Story().opened().paid(1_000).declined(500).paid(700).events)
        await desk.project()
        people = {}
        for language in ("pt", "en"):
            people[language] = browser()
            people[language].cookies.set("language", language)
            assert (await sign_in(people[language])).status_code == 303
        yield Pages(people, desk)


@pytest.mark.parametrize("column", sorted({*STRANGE, *TEXTS}))
async def test_trap_c04_a_strange_line_is_shown_and_makes_no_page_fail(pages: Pages, column: str) -> None:
    odd = [f"$${text}$$" for text in ODD_TEXTS] if column in TEXTS else []
    for value in (*STRANGE.get(column, ()), *odd):
        await pages.desk.pool.execute(f"update line set {column} = {value} where first_sequence <> 2")

        await pages.all_answer(f"{column} = {value}")


@pytest.mark.parametrize("column", [*ACCOUNTS, *ACCOUNT_TEXTS])
async def test_trap_c04_a_strange_account_makes_no_page_fail(pages: Pages, column: str) -> None:
    for value in (*ACCOUNTS.get(column, ()), *(f"$${text}$$" for text in ODD_TEXTS if column in ACCOUNT_TEXTS)):
        await pages.desk.pool.execute(f"update account set {column} = {value}")

        await pages.all_answer(f"{column} = {value}")


async def test_trap_c04_sums_of_the_largest_amounts_are_shown(pages: Pages) -> None:
    await pages.desk.pool.execute(
        f"update line set amount_minor = {LARGEST}, refunded_minor = {-LARGEST - 1}, status = 'approved'"
    )

    await pages.all_answer("the largest amounts")


async def test_trap_c04_a_day_that_no_calendar_of_ours_has_is_shown_with_its_sum(pages: Pages) -> None:
    await pages.desk.pool.execute("update line set local_day = '-infinity', occurred_at = '-infinity'")

    page = (await pages.people["pt"].get(f"/?account={ANA}")).text

    assert re.search(r'class="sum figures">R\$\s*17,00', page)
