"""What a buyer typed or pasted into the fields of a card, read as it is meant or not at all. Pure.

The page does the same while one types (`static/payment.js`); both are held to one list of cases.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Full-width forms of ASCII, as keyboards of East Asia write them.
_NARROW: Final = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
#: Figures, and the words around them.
_AROUND: Final = re.compile(r"([^0-9]*)([0-9](?:.*[0-9])?)([^0-9]*)", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9 .·-]+")
_TWO_PARTS: Final = re.compile(r"([0-9]{1,4}) ?[/. -] ?([0-9]{1,4})")
_ONE_PART: Final = re.compile(r"([0-9]{2})([0-9]{2})|([0-9]{2})(20[0-9]{2})|(20[0-9]{2})([0-9]{2})")


def read_number(text: str) -> str:
    """Read a card number however it is spaced, and with words around it; empty where it is no row of figures."""
    figures = _plain(text)
    return re.sub("[^0-9]", "", figures) if _NUMBER.fullmatch(figures) else ""


def read_expiry(text: str) -> tuple[int, int] | None:
    """Read `MM/AA`, `MM/AAAA`, `AAAA-MM` or `AA/MM`, as year and month; None where it may mean something else.

    What could be read both ways is month first, as it stands on cards.
    """
    figures = _plain(text)
    match = _TWO_PARTS.fullmatch(figures) or _ONE_PART.fullmatch(figures)
    if match is None:
        return None
    first, second = (part for part in match.groups() if part is not None)
    if len(first) <= 2 and 1 <= int(first) <= 12:
        return _year_and_month(second, first)
    # Only a year can be meant: more than twelve, or four digits.
    return _year_and_month(first, second) if len(second) == 2 and int(first) > 12 else None


def _year_and_month(year: str, month: str) -> tuple[int, int] | None:
    if not 1 <= int(month) <= 12:
        return None
    if len(year) == 2:
        return 2000 + int(year), int(month)
    return (int(year), int(month)) if len(year) == 4 and year.startswith("20") else None


def _plain(text: str) -> str:
    """Write figures plainly: narrow, spaced by single blanks, without what is not seen; empty where there are none.

    Words around them are left out; other figures there, or control characters, are not understood.
    """
    shown = "".join(_shown(letter) for letter in text.translate(_NARROW))
    match = _AROUND.fullmatch(shown)
    if match is None or any(unicodedata.category(letter)[0] in "NC" for letter in match[1] + match[3]):
        return ""
    return re.sub(" +", " ", match[2])


def _shown(letter: str) -> str:
    kind = unicodedata.category(letter)
    if kind[0] == "Z" or letter in "\t\n\v\f\r":
        return " "
    if kind == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    return "" if kind == "Cf" else letter
