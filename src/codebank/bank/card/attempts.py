"""Wrong attempts at a card: counted, and after too many the card refuses everything for a while. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from codebank.bank.state import Card
from codebank.events import DeclineCode

#: Wrong CVVs or expiries within the window after which a card refuses everything until the window has passed.
WRONG_ATTEMPTS_MAX: Final = 5
WRONG_ATTEMPTS_WINDOW: Final = timedelta(minutes=15)
#: So far may the clocks of two banks be apart; a stamp further ahead is of a clock that was set back since.
_CLOCKS_APART: Final = timedelta(minutes=1)
_WRONG: Final = frozenset({DeclineCode.WRONG_CVV, DeclineCode.WRONG_EXPIRY})


def is_worn_out(card: Card, now: datetime) -> bool:
    """Tell whether wrong attempts have used up the card's patience for now."""
    return card.wrong_attempts >= WRONG_ATTEMPTS_MAX and _is_within_window(card, now)


def count_attempt(card: Card, code: str | None, now: datetime) -> Card | None:
    """Give the card with its count of wrong attempts after an answer, or None where nothing changes."""
    if code in _WRONG:
        if not _is_within_window(card, now):
            return replace(card, wrong_attempts=1, wrong_since=now)
        return replace(card, wrong_attempts=card.wrong_attempts + 1)
    if code is None and card.wrong_attempts:
        return replace(card, wrong_attempts=0, wrong_since=None)
    return None


def _is_within_window(card: Card, now: datetime) -> bool:
    # A window that begins in the future would hold the card up for as long as the clock was set back.
    return card.wrong_since is not None and -_CLOCKS_APART <= now - card.wrong_since < WRONG_ATTEMPTS_WINDOW
