"""Lines as CSV (RFC 4180), safe to open in a spreadsheet. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final

from codebank.civil import local_time
from codebank.money import Money, decimal_text
from codebank.statement.line import Line

_HEADER: Final = (
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
#: A cell that begins so would be run as a formula (OWASP, CSV injection).
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_of(lines: Iterable[Line]) -> str:
    """Write lines with a header; days and times are São Paulo's, amounts have a point and no symbol."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_HEADER)
    for line in lines:
        at = local_time(line.occurred_at)
        writer.writerow(
            (
                at.date().isoformat(),
                at.strftime("%H:%M:%S"),
                _safe(line.merchant_name),
                _safe(line.description),
                _safe(line.card_masked),
                line.parcelas,
                _safe(line.status),
                decimal_text(Money(line.amount_minor, line.currency)),
                decimal_text(Money(line.refunded_minor, line.currency)),
                _safe(line.currency),
            )
        )
    return out.getvalue()


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
