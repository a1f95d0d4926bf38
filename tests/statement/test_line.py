"""Lines: numbers of events, days, sums, searches, tints."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.statement.line import (
    Line,
    Step,
    initial_of,
    line_of,
    search_form,
    step_of,
    tint_of,
    used_percent,
)
from tests.statement.desk import Story


def lines_of(story: Story) -> list[Line]:
    return [line for line in map(line_of, story.events) if line is not None]


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_an_events_number_says_whether_it_is_next_known_or_too_early(last: int, sequence: int) -> None:
    expected = Step.REPEAT if sequence <= last else (Step.NEXT if sequence == last + 1 else Step.GAP)

    assert step_of(sequence, last) is expected


def test_an_account_that_is_opened_is_no_line() -> None:
    assert line_of(Story().opened().events[0]) is None


@pytest.mark.parametrize(("at", "day"), [
    (datetime(2026, 11, 24, 2, 59, tzinfo=UTC), date(2026, 11, 23)),
    (datetime(2026, 11, 24, 3, 0, tzinfo=UTC), date(2026, 11, 24)),
])  # fmt: skip
def test_trap_b24_a_line_is_on_the_day_that_the_clock_in_sao_paulo_showed(at: datetime, day: date) -> None:
    line = lines_of(Story().paid(100, created_at=at))[0]

    assert line.local_day == day
    assert line.occurred_at.tzinfo is not None


def test_what_is_left_travels_with_the_line() -> None:
    assert [line.available_minor for line in lines_of(Story().paid(1000).paid(500))] == [99_000, 98_500]


def test_a_search_knows_neither_case_nor_accents() -> None:
    assert search_form("PÃO de Açúcar") == "pao de acucar"


@pytest.mark.parametrize(("category", "tint"), [("5411", 3), ("5812", 4), ("9999", 7), ("", 7), ("x", 7), ("3000", 2)])
def test_a_category_has_its_tint(category: str, tint: int) -> None:
    assert tint_of(category) == tint


@pytest.mark.parametrize(("name", "initial"), [("padaria", "P"), ("  é bom", "É"), ("!!!", "•"), ("7 Mares", "7")])
def test_a_merchant_has_its_initial(name: str, initial: str) -> None:
    assert initial_of(name) == initial


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_ring_is_never_empty_where_something_is_used_nor_more_than_full(limit: int, used: int) -> None:
    percent = used_percent(limit, used)

    assert 0 <= percent <= 100
    assert (percent == 0) == (used == 0 or limit == 0)
