"""Lines as CSV (RFC 4180), as the reader's spreadsheet takes it, and safe to open in any other. Pure."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from codebank.civil import local_time
from codebank.events import PaymentStatus
from codebank.money import Money, decimal_text
from codebank.statement.line import Line

_COLUMNS: Final = (
    "date",
    "time",
    "merchant",
    "description",
    "card",
    "parcelas",
    "status",
    "amount",
    "returned",
    "currency",
)
#: What stands between cells and before the cents, where the language is spoken.
_MARKS: Final = {"pt": (";", ","), "en": (",", ".")}
#: By this a spreadsheet knows UTF-8.
_BYTE_ORDER_MARK: Final = "\ufeff"
#: Between cells somewhere: a file goes to lands that split where its own does not.
_SEPARATORS: Final = re.compile("([,;|])")
#: Control characters, and what else ends a line somewhere.
_BREAKS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: What begins so is run as a formula (OWASP, CSV injection); also in its full-width, small and raised forms.
_FORMULA_STARTS: Final = "=+-@\N{MINUS SIGN}"


@dataclass(frozen=True)
class Sheet:
    """Writes lines as a language's spreadsheets read them; days and times are São Paulo's."""

    language: str
    #: Gives the sentence of a key.
    say: Callable[[str], str]

    def head(self) -> bytes:
        """Give the beginning of the file."""
        return (_BYTE_ORDER_MARK + self._written([[self.say(f"csv.{name}") for name in _COLUMNS]])).encode()

    def rows(self, lines: Iterable[Line]) -> bytes:
        """Give the rows of some lines."""
        return self._written(self._cells(line) for line in lines).encode()

    def _written(self, rows: Iterable[list[str]]) -> str:
        out = io.StringIO()
        csv.writer(out, delimiter=_MARKS[self.language][0], quoting=csv.QUOTE_ALL).writerows(rows)
        return out.getvalue()

    def _cells(self, line: Line) -> list[str]:
        at = local_time(line.occurred_at)
        status = self.say(f"csv.{line.status}") if line.status in list(PaymentStatus) else safe_cell(line.status)
        return [
            at.date().isoformat(),
            at.strftime("%H:%M:%S"),
            safe_cell(line.merchant_name),
            safe_cell(line.description),
            safe_cell(line.card_masked),
            str(line.parcelas),
            status,
            self._amount(line.amount_minor, line.currency),
            self._amount(line.refunded_minor, line.currency),
            safe_cell(line.currency),
        ]

    def _amount(self, amount_minor: int, currency: str) -> str:
        return decimal_text(Money(amount_minor, currency)).replace(".", _MARKS[self.language][1])


def safe_cell(text: str) -> str:
    """Write a text so that no spreadsheet takes it, or what it makes a cell of, for a formula."""
    shown = _BREAKS.sub(" ", text)
    return "".join(f"'{piece}" if _would_run(piece) else piece for piece in _SEPARATORS.split(shown))


def _would_run(piece: str) -> bool:
    first = next((character for character in piece if not _is_passed_over(character)), "")
    return any(start in _FORMULA_STARTS for start in unicodedata.normalize("NFKC", first))


def _is_passed_over(character: str) -> bool:
    return character in "\"'" or unicodedata.category(character) in ("Zs", "Cf")
