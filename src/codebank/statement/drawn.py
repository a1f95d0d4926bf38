"""Rows that were drawn before: a push draws a page's lines anew, and all but one of them look as they did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from codebank.statement.line import Line

#: Half a kilobyte each.
_KEPT_MAX: Final = 5000


@dataclass
class DrawnRows:
    """Keeps how lines look, by all that decides it."""

    _kept: dict[tuple[object, ...], str] = field(default_factory=dict)

    def drawing(
        self, language: str, currency: str, fresh_after: int | None
    ) -> Callable[[Callable[[Line], str], Line], str]:
        """Give what draws a line by a macro, or gives what that drew before, on one page."""

        def drawn(macro: Callable[[Line], str], line: Line) -> str:
            key = (language, currency, fresh_after is not None and line.sequence > fresh_after, line)
            row = self._kept.get(key)
            if row is None:
                if len(self._kept) >= _KEPT_MAX:
                    self._kept.clear()
                row = self._kept[key] = macro(line)
            return row

        return drawn
