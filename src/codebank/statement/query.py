"""Reads what a page or a program asks of a statement: account, filters, cursor. Names what does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.web.http import is_clean_text
from codebank.statement.store.reading import SETTLED, AccountView, Filter

STATUSES: Final = (SETTLED, "approved", "declined", "refunded", "all")
TEXT_LENGTH_MAX: Final = 80
PAGE_SIZE_MAX: Final = 200
_SEQUENCE_MAX: Final = 2**62


class Misfit(StrEnum):
    """How something that was asked does not fit; a page has words of its own for it."""

    TEXT = "text"
    DAY = "day"
    ORDER = "order"
    STATUS = "status"
    SEQUENCE = "sequence"
    SIZE = "size"


_REASONS: Final = {
    Misfit.TEXT: f"must have at most {TEXT_LENGTH_MAX} printable characters",
    Misfit.DAY: "must be a day such as 2026-11-23",
    Misfit.ORDER: "must not be after `to`",
    Misfit.STATUS: f"must be one of {', '.join(STATUSES)}",
    Misfit.SEQUENCE: f"must be a number from 1 to {_SEQUENCE_MAX}",
    Misfit.SIZE: f"must be a number from 1 to {PAGE_SIZE_MAX}",
}


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked."""

    wanted: Filter
    #: Lines before this first sequence; None: from the newest on.
    before: int | None
    #: What an older page had of the account when it was opened; None on the first page.
    since: int | None
    limit: int
    #: The limit, where it was asked for and is not the page's own.
    asked_limit: int | None = None

    @property
    def is_filtered(self) -> bool:
        """Tell whether lines may be there that are not asked for."""
        return self.wanted != Filter()

    def address(self, **changes: object) -> str:
        """Write the filters as a query string, for a link that keeps them."""
        values = {
            "q": self.wanted.text,
            "from": self.wanted.first_day or "",
            "to": self.wanted.last_day or "",
            "status": self.wanted.status if self.wanted.status != SETTLED else "",
            "limit": self.asked_limit or "",
            **changes,
        }
        return urlencode({name: value for name, value in values.items() if value not in ("", None)})


def look_at_query(values: Mapping[str, str], *, limit: int) -> tuple[Query, dict[str, Misfit]]:
    """Read filters and paging as far as they fit, and tell which fields do not."""
    misfits: dict[str, Misfit] = {}
    text = values.get("q", "").strip()
    if len(text) > TEXT_LENGTH_MAX or not is_clean_text(text):
        misfits["q"], text = Misfit.TEXT, ""
    status = values.get("status") or SETTLED
    if status not in STATUSES:
        misfits["status"], status = Misfit.STATUS, SETTLED
    first_day, last_day = (_read_day(name, values, misfits) for name in ("from", "to"))
    if first_day and last_day and first_day > last_day:
        misfits["from"] = Misfit.ORDER
    before = _read_number("cursor", values, _SEQUENCE_MAX, Misfit.SEQUENCE, misfits)
    since = _read_number("since", values, _SEQUENCE_MAX, Misfit.SEQUENCE, misfits)
    size = _read_number("limit", values, PAGE_SIZE_MAX, Misfit.SIZE, misfits)
    wanted = Filter(text=text, first_day=first_day, last_day=last_day, status=status)
    return Query(wanted, before, since if before else None, size or limit, size), misfits


def read_query(values: Mapping[str, str], *, limit: int) -> Query:
    """Read filters and paging. Raises CodebankError naming every field that does not fit."""
    query, misfits = look_at_query(values, limit=limit)
    if misfits:
        raise invalid(*(Violation(name, _REASONS[misfit]) for name, misfit in misfits.items()))
    return query


def _read_day(name: str, values: Mapping[str, str], misfits: dict[str, Misfit]) -> date | None:
    text = values.get(name, "")
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        misfits[name] = Misfit.DAY
        return None


def _read_number(
    name: str, values: Mapping[str, str], largest: int, misfit: Misfit, misfits: dict[str, Misfit]
) -> int | None:
    text = values.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) <= largest):
        misfits[name] = misfit
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
