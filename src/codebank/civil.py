"""Civil time: on which day of the people's calendar something happened.

Storage knows UTC only; bills, screens and the expiry of a card follow the clock of São Paulo.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Final
from zoneinfo import ZoneInfo

SAO_PAULO: Final = ZoneInfo("America/Sao_Paulo")


def local_time(at: datetime) -> datetime:
    """Give the moment as the clock on the wall showed it. Refuses a time without a zone."""
    if at.tzinfo is None:
        raise ValueError("a time without a zone has no place on a calendar")
    return at.astimezone(SAO_PAULO)


def local_day(at: datetime) -> date:
    """Give the day on which a moment fell."""
    return local_time(at).date()
