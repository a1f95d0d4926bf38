"""Civil time: on which day of Brazil's calendar something fell."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from codebank.civil import local_day, local_time


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2026, 11, 24, 2, 59, 59, tzinfo=UTC), date(2026, 11, 23)),
        (datetime(2026, 11, 24, 3, 0, 0, tzinfo=UTC), date(2026, 11, 24)),
        # In the summer of 2018 the clocks were one hour ahead: UTC-2.
        (datetime(2018, 12, 1, 1, 59, tzinfo=UTC), date(2018, 11, 30)),
        (datetime(2018, 12, 1, 2, 0, tzinfo=UTC), date(2018, 12, 1)),
    ],
)
def test_a_day_ends_at_midnight_of_sao_paulo(at: datetime, day: date) -> None:
    assert local_day(at) == day


def test_trap_b24_a_moment_is_shown_as_the_clock_on_the_wall_showed_it() -> None:
    assert local_time(datetime(2026, 11, 23, 15, 4, tzinfo=UTC)).strftime("%H:%M %z") == "12:04 -0300"


def test_trap_b24_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        local_day(datetime(2026, 11, 23))  # noqa: DTZ001
