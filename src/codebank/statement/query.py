"""Reads what a page or a program asks of a statement: account, filters, cursor. Names what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.web.http import is_clean_text
from codebank.statement.store.reading import AccountView, Filter

STATUSES: Final = ("settled", "approved", "declined", "refunded", "all")
TEXT_LENGTH_MAX: Final = 80
PAGE_SIZE_MAX: Final = 200
_SEQUENCE_MAX: Final = 2**62


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked."""

    wanted: Filter
    before: int | None
    limit: int

    def address(self, **changes: object) -> str:
        """Write the filters as a query string, for a link that keeps them."""
        values = {
            "q": self.wanted.text,
            "from": self.wanted.first_day or "",
            "to": self.wanted.last_day or "",
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value != ""})


def read_query(values: Mapping[str, str], *, limit: int) -> Query:
    """Read filters and paging. Raises CodebankError naming every field that does not fit."""
    violations: list[Violation] = []
    text = values.get("q", "").strip()
    if len(text) > TEXT_LENGTH_MAX or not is_clean_text(text):
        violations.append(Violation("q", f"must have at most {TEXT_LENGTH_MAX} printable characters"))
    status = values.get("status") or "settled"
    if status not in STATUSES:
        violations.append(Violation("status", f"must be one of {', '.join(STATUSES)}"))
    first_day = _read_day("from", values, violations)
    last_day = _read_day("to", values, violations)
    if first_day and last_day and first_day > last_day:
        violations.append(Violation("from", "must not be after `to`"))
    before = _read_number("cursor", values, _SEQUENCE_MAX, violations)
    size = _read_number("limit", values, PAGE_SIZE_MAX, violations)
    if violations:
        raise invalid(*violations)
    wanted = Filter(text=text, first_day=first_day, last_day=last_day, status=status)
    return Query(wanted, before, size or limit)


def _read_day(name: str, values: Mapping[str, str], violations: list[Violation]) -> date | None:
    text = values.get(name, "")
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        violations.append(Violation(name, "must be a day such as 2026-11-23"))
        return None


def _read_number(name: str, values: Mapping[str, str], largest: int, violations: list[Violation]) -> int | None:
    text = values.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) <= largest):
        violations.append(Violation(name, f"must be a number from 1 to {largest}"))
        return None
    return int(text)


@dataclass(frozen=True, slots=True)
class PagePosition:
    """Where an open page stands: the number of the event that it saw last, and whether it says that it is behind."""

    sequence: int
    is_behind: bool = False

    def __str__(self) -> str:
        return f"{self.sequence}{'b' if self.is_behind else ''}"


def read_page_position(text: str) -> PagePosition:
    """Read where a page stands, as it was told."""
    number = text.removesuffix("b")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise invalid(Violation("after", "must be the number of an event"))
    return PagePosition(int(number), number != text)


def choose_account(accounts: Sequence[AccountView], text: str) -> AccountView:
    """Choose one of the reader's own accounts. Anybody else's is no account here."""
    if not text and accounts:
        return accounts[0]
    try:
        account_id = UUID(text)
    except ValueError:
        account_id = None
    for account in accounts:
        if account.account_id == account_id:
            return account
    raise CodebankError(Code.NOT_FOUND, "no such account")
