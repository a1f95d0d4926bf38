"""Days and times as pages write them: the year and the day are there wherever they are not the reader's own."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from codebank.runtime.web.language import day_text, moment_text

TODAY = date(2027, 1, 1)


@pytest.mark.parametrize(("day", "pt", "en"), [
    (date(2027, 1, 1), "1 jan", "1 Jan"),
    (date(2027, 12, 31), "31 dez", "31 Dec"),
    (date(2026, 12, 31), "31 dez 2026", "31 Dec 2026"),
    (date(2028, 2, 29), "29 fev 2028", "29 Feb 2028"),
    # An hour before midnight in São Paulo, whatever the year in UTC.
    (datetime(2027, 1, 1, 2, tzinfo=UTC), "31 dez 2026", "31 Dec 2026"),
    (datetime(2027, 1, 1, 3, tzinfo=UTC), "1 jan", "1 Jan"),
])  # fmt: skip
def test_a_day_shows_its_year_wherever_it_is_not_this_one(day: date | datetime, pt: str, en: str) -> None:
    assert (day_text(day, "pt", TODAY), day_text(day, "en", TODAY)) == (pt, en)


@pytest.mark.parametrize(("at", "written"), [
    (datetime(2027, 1, 1, 15, 4, 5, tzinfo=UTC), "12:04:05"),
    (datetime(2027, 1, 1, 2, 0, tzinfo=UTC), "31 dez 2026, 23:00:00"),
    (datetime(2027, 1, 2, 3, 0, tzinfo=UTC), "2 jan, 00:00:00"),
])  # fmt: skip
def test_a_moment_shows_its_day_wherever_it_is_not_today(at: datetime, written: str) -> None:
    assert moment_text(at, "pt", TODAY) == written
