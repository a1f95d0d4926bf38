"""What is typed or pasted into the fields of a card: read as it is meant, or not at all."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.checkout.typed import read_expiry, read_number
from tests.checkout.typed_cases import EXPIRIES, NUMBER, NUMBERS


@pytest.mark.parametrize(("text", "expected"), [*EXPIRIES, ("", None), ("12/34\x00", None), ("\x0012/34", None)])
def test_an_expiry_is_read_as_people_write_it_and_never_as_another_date(
    text: str, expected: tuple[int, int] | None
) -> None:
    assert read_expiry(text) == expected


@pytest.mark.parametrize(("text", "expected"), [*NUMBERS, ("", ""), (f"{NUMBER}\x00", ""), (f"\x1b{NUMBER}", "")])
def test_a_number_is_read_however_it_is_written(text: str, expected: str) -> None:
    assert read_number(text) == expected


@given(st.integers(1, 12), st.integers(13, 99), st.sampled_from("/- ."))
def test_month_and_year_of_two_digits_each_are_the_same_date_in_either_order(month: int, year: int, mark: str) -> None:
    assert read_expiry(f"{month:02}{mark}{year}") == read_expiry(f"{year}{mark}{month:02}") == (2000 + year, month)


@given(st.text())
def test_whatever_is_typed_breaks_nothing(text: str) -> None:
    number, expiry = read_number(text), read_expiry(text)

    assert re.fullmatch("[0-9]*", number)
    assert expiry is None or (2000 <= expiry[0] <= 2099 and 1 <= expiry[1] <= 12)
