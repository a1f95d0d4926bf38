"""Texts that people are to read, such as names and descriptions: one rule for whoever takes them. Pure."""

from __future__ import annotations

import unicodedata
from typing import Final

#: Joins letters, or keeps them apart, in scripts and pictures that need it.
_JOINERS: Final = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
#: Letters by name that show nothing.
_FILLERS: Final = (
    "\N{BRAILLE PATTERN BLANK}\N{HANGUL FILLER}\N{HALFWIDTH HANGUL FILLER}\N{HANGUL CHOSEONG FILLER}"
    "\N{HANGUL JUNGSEONG FILLER}"
)


def fold_spaces(text: str) -> str:
    """Put one plain space for each run of spaces of any kind, and none at the ends.

    Tabs and line breaks are no spaces but control characters, and stay as they are.
    """
    if not text.isascii():
        text = "".join(" " if unicodedata.category(letter)[0] == "Z" else letter for letter in text)
    return " ".join(filter(None, text.split(" ")))


def is_readable(text: str) -> bool:
    """Tell whether a text holds nothing but what can be shown: no control, and nothing that turns its direction."""
    return text.isprintable() or all(letter.isprintable() or letter in _JOINERS for letter in text)


def is_blank(text: str) -> bool:
    """Tell whether a text shows nothing at all."""
    return all(unicodedata.category(letter)[0] in "ZCM" or letter in _FILLERS for letter in text)


def made_readable(text: str) -> str:
    """Give what can be shown of a text, with a space for the rest; empty where that is nothing."""
    shown = fold_spaces("".join(letter if is_readable(letter) else " " for letter in text))
    return "" if is_blank(shown) else shown
