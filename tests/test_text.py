"""The one rule for texts that people are to read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codebank.text import fold_spaces, is_blank, is_readable, made_readable

SPACES = ["\u0020", "\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a", "\u202f", "\u205f", "\u3000"]
LINES = ["\u2028", "\u2029"]


@pytest.mark.parametrize("space", [*SPACES, *LINES, " \u00a0 ", "\u3000\u3000"])
def test_spaces_of_every_kind_fold_to_one(space: str) -> None:
    assert fold_spaces(f"{space}café{space}da{space}serra{space}") == "café da serra"
    assert is_readable(fold_spaces(f"a{space}b"))


@pytest.mark.parametrize("text", ["👩\u200d🌾", "می\u200cخواهم", "क्\u200dष", "Zoë", "e\u0301", "日本", "❤\ufe0f"])
def test_joiners_and_whatever_can_be_shown_pass(text: str) -> None:
    assert is_readable(text)
    assert not is_blank(text)
    assert made_readable(text) == text


@pytest.mark.parametrize(
    "letter",
    ["\0", "\t", "\n", "\r", "\x1b", "\x7f", "\x85", "\x9f", "\ud800", "\ufffe"]
    + [chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))],
)
def test_control_characters_and_those_that_turn_the_direction_are_refused(letter: str) -> None:
    assert not is_readable(fold_spaces(f"a{letter}b"))
    assert made_readable(f"a{letter}b") == "a b"


@pytest.mark.parametrize(
    "text", ["", " ", "\u200d", "\u200c \u200d", "\u2800", "\u3164", "\uffa0\u115f\u1160", "\u0301", "\u00a0\u3000"]
)
def test_what_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)
    assert made_readable(text) == ""


@given(st.text())
def test_what_is_made_readable_is_and_stays_so(text: str) -> None:
    made = made_readable(text)

    assert is_readable(made)
    assert fold_spaces(made) == made == made_readable(made)


@given(st.text("abc é.", min_size=1))
def test_a_text_of_plain_spaces_keeps_its_words(text: str) -> None:
    assert fold_spaces(text).split() == text.split()
