"""What a card's number and expiry tell by themselves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.card import brand_of, is_expired, is_number_shaped, mask, passes_luhn, with_check_digit

bodies = st.text("0123456789", min_size=11, max_size=18)


@given(bodies)
def test_a_number_with_its_check_digit_passes_and_with_any_other_fails(body: str) -> None:
    number = with_check_digit(body)

    passing = [digit for digit in "0123456789" if passes_luhn(body + digit)]

    assert passing == [number[-1]]


@given(bodies, st.data())
def test_one_wrong_digit_is_always_noticed(body: str, data: st.DataObject) -> None:
    number = with_check_digit(body)
    place = data.draw(st.integers(0, len(number) - 1))
    digit = data.draw(st.sampled_from("0123456789").filter(lambda found: found != number[place]))

    assert not passes_luhn(number[:place] + digit + number[place + 1 :])


@pytest.mark.parametrize("number", ["4111111111111111", "5555555555554444", "378282246310005", "79927398713"])
def test_well_known_numbers_pass(number: str) -> None:
    assert passes_luhn(number)


@pytest.mark.parametrize(
    "text", ["4111 1111 1111 1111", "", "411111111111111a", "４１１１１１１１１１１１１１１１", "²" * 16]
)
def test_what_is_no_number_has_no_shape(text: str) -> None:
    assert not is_number_shaped(text)


@pytest.mark.parametrize(("digits", "shaped"), [(11, False), (12, True), (19, True), (20, False)])
def test_a_number_has_12_to_19_digits(digits: int, shaped: bool) -> None:
    assert is_number_shaped("4" * digits) is shaped
    assert not is_number_shaped("4" * digits + "\n")


@pytest.mark.parametrize("text", ["²²", "４１", "4a", "-1"])
def test_the_check_digit_is_of_ascii_digits_only(text: str) -> None:
    assert not passes_luhn(text)


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        ("4000001000000010", "visa"),
        ("5200001000000010", "mastercard"),
        ("2221001000000010", "mastercard"),
        ("2220991000000010", "card"),
        ("2720991000000010", "mastercard"),
        ("2721001000000010", "card"),
        ("370000100000010", "amex"),
        ("6500001000000010", "elo"),
        ("4011771000000010", "visa"),
        ("4011781000000010", "elo"),
        ("4011791000000010", "elo"),
        ("4011801000000010", "visa"),
        ("4389341000000010", "visa"),
        ("4389351000000010", "elo"),
        ("4389901000000010", "visa"),
        ("4576301000000010", "visa"),
        ("4576311000000010", "elo"),
        ("5041741000000010", "card"),
        ("5041751000000010", "elo"),
        ("5066981000000010", "card"),
        ("5066991000000010", "elo"),
        ("5067781000000010", "elo"),
        ("5067791000000010", "card"),
        ("5090001000000010", "elo"),
        ("6277801000000010", "elo"),
        ("6277811000000010", "card"),
        ("6362971000000010", "elo"),
        ("6363681000000010", "elo"),
        ("6500301000000010", "card"),
        ("6500311000000010", "elo"),
        ("6500341000000010", "card"),
        ("6504051000000010", "elo"),
        ("6505391000000010", "card"),
        ("6516521000000010", "elo"),
        ("6516801000000010", "card"),
        ("6550201000000010", "card"),
        ("6550581000000010", "elo"),
        ("6062811000000010", "card"),
        ("6062821000000010", "hipercard"),
        ("3841001000000010", "hipercard"),
        ("3841011000000010", "card"),
        ("9999001000000010", "card"),
        ("4", "visa"),
        ("50", "card"),
        ("", "card"),
    ],
)
def test_a_brand_is_told_by_the_first_digits(number: str, brand: str) -> None:
    assert brand_of(number) == brand


@given(st.text("0123456789", min_size=12, max_size=19))
def test_a_mask_shows_the_last_four_digits_only(number: str) -> None:
    assert mask(number) == f"•••• {number[-4:]}"
    assert number not in mask(number)


@pytest.mark.parametrize(
    ("year", "month", "expired"), [(2026, 10, True), (2026, 11, False), (2027, 1, False), (2025, 12, True)]
)
def test_trap_b18_year_and_month_are_compared_together(year: int, month: int, expired: bool) -> None:
    assert is_expired(year, month, datetime(2026, 11, 23, tzinfo=UTC)) is expired


def test_the_month_ends_at_midnight_in_brazil() -> None:
    assert not is_expired(2026, 11, datetime(2026, 12, 1, 2, 59, 59, tzinfo=UTC))
    assert is_expired(2026, 11, datetime(2026, 12, 1, 3, 0, tzinfo=UTC))
