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
#: The ranges of first digits of each brand, from and to; the first that fits counts. Elo and Hipercard have theirs
#: inside those of others, so exactly they are listed; 650000 is the published test card's. The page has the same list.
BRANDS: Final = (
    (
        "elo",
        (
            *(("401178", "401179"), ("431274", "431274"), ("438935", "438935"), ("451416", "451416")),
            *(("457393", "457393"), ("457631", "457632"), ("504175", "504175"), ("506699", "506778")),
            *(("509000", "509999"), ("627780", "627780"), ("636297", "636297"), ("636368", "636369")),
            *(("650000", "650000"), ("650031", "650033"), ("650035", "650051"), ("650405", "650439")),
            *(("650485", "650538"), ("650541", "650598"), ("650700", "650718"), ("650720", "650727")),
            *(("650901", "650978"), ("651652", "651679"), ("655000", "655019"), ("655021", "655058")),
        ),
    ),
    ("hipercard", (("606282", "606282"), ("384100", "384100"), ("384140", "384140"), ("384160", "384160"))),
    ("amex", (("34", "34"), ("37", "37"))),
    ("visa", (("4", "4"),)),
    ("mastercard", (("51", "55"), ("2221", "2720"))),
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
    for brand, ranges in BRANDS:
        if any(first <= prefix[: len(first)] <= last for first, last in ranges if len(prefix) >= len(first)):
            return brand
    return "card"


def mask(number: str) -> str:
    """Hide all but the last four digits."""
    return f"•••• {number[-4:]}"


def is_expired(expiry_year: int, expiry_month: int, now: datetime) -> bool:
    """Tell whether a card is past the last moment of its expiry month, on Brazil's calendar."""
    today = local_day(now)
    return (expiry_year, expiry_month) < (today.year, today.month)
