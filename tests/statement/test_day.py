"""Lines by day: each day once, in the account's order, with the sum of what is shown."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from codebank.statement.day import by_day, moved_minor
from codebank.statement.line import Line, line_of
from tests.statement.desk import Story

NOON = datetime(2026, 11, 23, 15, tzinfo=UTC)


def newest_first(story: Story) -> list[Line]:
    return [line for line in map(line_of, reversed(story.events)) if line is not None]


def test_a_clock_that_steps_back_over_midnight_shows_no_day_twice() -> None:
    story = Story().paid(100, created_at=NOON).paid(200, created_at=NOON - timedelta(days=1)).paid(50, created_at=NOON)

    days = by_day(newest_first(story), "BRL", {})

    assert [(day.day, [line.amount_minor for line in day.lines], day.moved_minor) for day in days] == [
        (date(2026, 11, 23), [50, 100], 150),
        (date(2026, 11, 22), [200], 200),
    ]


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(1, 1000), st.sampled_from(["approved", "declined", "odd"]))))
def test_every_line_is_shown_once_and_the_days_add_up_to_them(steps: list[tuple[int, int, str]]) -> None:
    story = Story()
    for step, amount, status in steps:
        story.told("codebank.payment.approved", status, amount, created_at=NOON + timedelta(days=step))
    lines = newest_first(story)

    days = by_day(lines, "BRL", {})

    assert len({day.day for day in days}) == len(days)
    assert sum(day.moved_minor for day in days) == sum(amount for _, amount, status in steps if status == "approved")
    assert sorted((line for day in days for line in day.lines), key=lambda line: -line.sequence) == lines
    for day in days:
        assert list(day.lines) == sorted(day.lines, key=lambda line: -line.first_sequence)


def test_what_was_given_back_or_is_of_another_currency_or_not_understood_is_in_no_sum() -> None:
    story = Story().paid(100).paid(700).returned(2, 700).declined(30).paid(9, currency="USD")

    assert moved_minor(newest_first(story)[:1], "BRL") == 0
    assert moved_minor([line for line in newest_first(story) if line.sequence != 2], "BRL") == 100


def test_a_day_that_goes_on_on_another_page_is_called_a_part() -> None:
    lines = newest_first(Story().paid(100).paid(200))
    (whole,), (part,) = by_day(lines, "BRL", {lines[0].local_day: 2}), by_day(lines, "BRL", {lines[0].local_day: 5})

    assert (whole.is_part, part.is_part, part.count) == (False, True, 5)
