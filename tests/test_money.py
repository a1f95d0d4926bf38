"""Money: whole minor units, one currency, and how people and machines read it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.money import AMOUNT_MINOR_MAX, EXPONENTS, Money, decimal_text, format_money, money_parts

amounts = st.integers(-AMOUNT_MINOR_MAX, AMOUNT_MINOR_MAX)
currencies = st.sampled_from(sorted(EXPONENTS))


@pytest.mark.parametrize("wrong", [1.0, 0.1, "1", None, True, Decimal(1), float("nan"), float("inf")])
def test_trap_a25_an_amount_is_a_whole_number_and_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError, match="whole number"):
        Money(wrong, "BRL")


def test_trap_a25_the_largest_amount_is_exact() -> None:
    assert Money(AMOUNT_MINOR_MAX, "BRL").amount_minor == 99_999_999_999
    assert decimal_text(Money(AMOUNT_MINOR_MAX, "BRL")) == "999999999.99"
    assert AMOUNT_MINOR_MAX > 2**32


@pytest.mark.parametrize("wrong", [None, 986, b"BRL", ["BRL"]])
def test_a_currency_is_a_code_and_nothing_else(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a currency is a code"):
        Money(1, wrong)


@pytest.mark.parametrize(
    ("currency", "language", "text"),
    [
        ("ZZZ", "pt", "−ZZZ\u00a0123.456\u00a0unidades menores"),
        ("ZZZ", "en", "−ZZZ\u00a0123,456\u00a0minor units"),
        ("points", "en", "−points\u00a0123,456\u00a0minor units"),
    ],
)
def test_trap_c04_an_amount_of_an_unknown_currency_is_written_in_minor_units_and_says_so(
    currency: str, language: str, text: str
) -> None:
    amount = Money(-123_456, currency)

    assert format_money(amount, language) == text
    assert decimal_text(amount) == "-123456 minor"


@pytest.mark.parametrize(
    ("amount", "currency", "language", "text"),
    [
        (123_456, "BRL", "pt", "R$\u00a01.234,56"),
        (123_456, "BRL", "en", "R$\u00a01,234.56"),
        (5, "BRL", "pt", "R$\u00a00,05"),
        (0, "BRL", "pt", "R$\u00a00,00"),
        (-100, "BRL", "pt", "−R$\u00a01,00"),
        (99_999_999_999, "BRL", "pt", "R$\u00a0999.999.999,99"),
        (1_500, "JPY", "en", "¥\u00a01,500"),
        (1_234, "KWD", "pt", "KWD\u00a01,234"),
        (100, "USD", "pt", "US$\u00a01,00"),
        (100, "BRL", "xx", "R$\u00a01,00"),
    ],
)
def test_people_read_an_amount_in_their_language(amount: int, currency: str, language: str, text: str) -> None:
    assert format_money(Money(amount, currency), language) == text


def test_an_amount_can_be_cut_for_the_page() -> None:
    parts = money_parts(Money(-123_456, "BRL"))

    assert (parts.sign, parts.symbol, parts.whole, parts.mark, parts.cents) == ("−", "R$", "1.234", ",", "56")
    assert str(parts) == parts.text


@given(amounts, currencies)
def test_what_a_machine_reads_is_the_amount(amount: int, currency: str) -> None:
    text = decimal_text(Money(amount, currency))

    assert Decimal(text).scaleb(EXPONENTS[currency]) == amount
    assert "," not in text


@given(amounts, currencies, st.sampled_from(["pt", "en"]))
def test_what_people_read_has_every_digit(amount: int, currency: str, language: str) -> None:
    text = format_money(Money(amount, currency), language)

    digits = "".join(character for character in text if character.isdigit())
    assert int(digits) == abs(amount)
    assert text.startswith("−") is (amount < 0)
