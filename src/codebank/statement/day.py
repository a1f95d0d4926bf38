"""Lines as a page shows them: by day, each day once, with the sum of what is shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from codebank.events import PaymentStatus
from codebank.statement.line import Line

_MOVING = (PaymentStatus.APPROVED, PaymentStatus.REFUNDED)


@dataclass(frozen=True, slots=True)
class Day:
    """Lines of one day, in the account's order."""

    day: date
    lines: tuple[Line, ...]
    #: What the lines shown moved, in the account's currency.
    moved_minor: int
    #: How many lines the day has that are wanted; other pages show what is missing.
    count: int

    @property
    def is_part(self) -> bool:
        """Tell whether other pages show more of the day."""
        return self.count > len(self.lines)


def by_day(lines: Sequence[Line], currency: str, counts: Mapping[date, int]) -> list[Day]:
    """Group lines by their day, however often a clock stepped back over midnight between them.

    `lines` are in the account's order, newest first, and stay in it; the day of the newest comes first. `counts` tells
    how many lines each day has on all pages.
    """
    days: dict[date, list[Line]] = {}
    for line in lines:
        days.setdefault(line.local_day, []).append(line)
    return [
        Day(day, tuple(group), moved_minor(group, currency), counts.get(day, len(group))) for day, group in days.items()
    ]


def moved_minor(lines: Sequence[Line], currency: str) -> int:
    """Add up what lines moved in a currency. A status that nobody here understands is in no sum."""
    return sum(
        line.amount_minor - line.refunded_minor
        for line in lines
        if line.status in _MOVING and line.currency == currency
    )
