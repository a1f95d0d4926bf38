"""What can be told from a card's number and expiry alone, without asking any bank.

Numbers: ISO/IEC 7812-1 (length and Luhn check digit).
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import Final

from codebank.civil import local_day

_DIGITS: Final = re.compile(r"[0-9]{12,19}")
#: Each digit doubled, nine taken off where that gives two digits.
_DOUBLED: Final = str.maketrans("0123456789", "0246813579")

#: So many digits tell the brand.
_PREFIX_DIGITS: Final = 6
#: First match wins. Elo and Hipercard issue inside ranges that begin like others'.
_BRANDS: Final = (
    ("elo", re.compile(r"^(4011|4389(35|90)|4576|5041|5066|5067|509|6277|6362|6363|650|6516|6550)")),
    ("hipercard", re.compile(r"^(6062|3841)")),
    ("amex", re.compile(r"^3[47]")),
    ("visa", re.compile(r"^4")),
    ("mastercard", re.compile(r"^(5[1-5]|2(22[1-9]|2[3-9]|[3-6]|7[01]|720))")),
)


def is_number_shaped(number: str) -> bool:
    """Tell whether the text is 12 to 19 ASCII digits."""
    return _DIGITS.fullmatch(number) is not None


def passes_luhn(number: str) -> bool:
    """Tell whether the last digit is the Luhn check digit of the ones before it (ISO/IEC 7812-1, annex B)."""
    if not number.isascii() or not number.isdigit():
        return False
    # Digits are read as characters and doubled by a table: this runs once per payment.
    return (sum(map(int, number[-1::-2])) + sum(map(int, number[-2::-2].translate(_DOUBLED)))) % 10 == 0


def with_check_digit(body: str) -> str:
    """Append the Luhn check digit to the digits of a number."""
    return next(body + digit for digit in "0123456789" if passes_luhn(body + digit))


def brand_of(number: str) -> str:
    """Name the brand that a number belongs to: visa, mastercard, elo, amex, hipercard or `card`."""
    return _brand_of_prefix(number[:_PREFIX_DIGITS])


@lru_cache(maxsize=10_000)
def _brand_of_prefix(prefix: str) -> str:
    return next((brand for brand, pattern in _BRANDS if pattern.match(prefix)), "card")


def mask(number: str) -> str:
    """Hide all but the last four digits."""
    return f"•••• {number[-4:]}"


def is_expired(expiry_year: int, expiry_month: int, now: datetime) -> bool:
    """Tell whether a card is past the last moment of its expiry month, on Brazil's calendar."""
    today = local_day(now)
    return (expiry_year, expiry_month) < (today.year, today.month)
