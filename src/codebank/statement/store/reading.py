"""What the pages and REST read: accounts and lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from codebank.runtime.postgres.pool import Connection
from codebank.statement.line import Line, search_form

#: PostgreSQL keeps days before our calendar's first and after its last, and infinity; here they are its ends, less a
#: day for whoever's clock stands on the other side of the globe.
_SHOWN_DAYS: Final = "least(greatest({}, '0001-01-02'), '9999-12-30')"
_OCCURRED_AT: Final = f"{_SHOWN_DAYS.format('occurred_at')} as occurred_at"
_LOCAL_DAY: Final = _SHOWN_DAYS.format("local_day")
_LINE: Final = (
    "account_id, payment_id, sequence, first_sequence, merchant_name, merchant_category, description, amount_minor,"
    " currency, parcelas, status, decline_code, refunded_minor, card_masked, available_minor,"
    f" {_OCCURRED_AT}, {_LOCAL_DAY} as local_day"
)

#: The status that is asked for where nothing else is: all but refused attempts.
SETTLED: Final = "settled"
#: What lines of the account $1 moved, in its currency. A status that nobody here understands is in no sum.
_MOVED: Final = (
    "coalesce(sum(amount_minor::numeric - refunded_minor) filter (where status in ('approved', 'refunded')"
    " and currency = (select a.currency from account a where a.account_id = $1)), 0) as moved"
)


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as its cardholder sees it."""

    account_id: UUID
    holder_name: str
    #: An `AccountStatus`, or what a newer bank calls it.
    status: str
    currency: str
    limit_minor: int
    used_minor: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which lines are wanted."""

    text: str = ""
    first_day: date | None = None
    last_day: date | None = None
    #: `settled`, one status, or `all`.
    status: str = SETTLED


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a payment's line appeared."""

    status: str
    occurred_at: datetime
    projected_at: datetime


async def read_accounts(connection: Connection, cardholder_id: UUID) -> list[AccountView]:
    """Read a cardholder's accounts, those that have been told of, in their order."""
    rows = await connection.fetch(
        "select a.account_id, a.holder_name, a.status, a.currency, a.limit_minor, a.used_minor, a.sequence"
        " from cardholder_account c join account a using (account_id) where c.cardholder_id = $1 order by c.place",
        cardholder_id,
    )
    return [AccountView(**row) for row in rows]


async def read_behind(connection: Connection, seconds: int) -> dict[int, datetime]:
    """Find partitions that were not seen read to their end for so long, and when they last were.

    A time ahead of now is of a clock that was set back since: it tells nothing, until a projector says it anew.
    """
    rows = await connection.fetch(
        "select partition, least(caught_up_at, clock_timestamp()) as caught_up_at from freshness"
        " where caught_up_at not between clock_timestamp() - make_interval(secs => $1) and clock_timestamp()",
        seconds,
    )
    return {row["partition"]: row["caught_up_at"] for row in rows}


async def read_lines(
    connection: Connection, account_id: UUID, wanted: Filter, *, before: int | None, limit: int
) -> list[Line]:
    """Read lines, newest first, those before a first sequence."""
    conditions, values = ["account_id = $1"], [account_id]
    _narrow(wanted, conditions, values)
    if before is not None:
        values.append(before)  # type: ignore[arg-type]
        conditions.append(f"first_sequence < ${len(values)}")
    rows = await connection.fetch(
        f"select {_LINE} from line where {' and '.join(conditions)} order by first_sequence desc limit {int(limit)}",
        *values,
    )
    return [_line(row) for row in rows]


async def sum_lines(connection: Connection, account_id: UUID, wanted: Filter) -> tuple[int, int]:
    """Count the lines wanted, and add up what they moved."""
    conditions: list[str] = ["account_id = $1"]
    values: list[Any] = [account_id]
    _narrow(wanted, conditions, values)
    row = await connection.fetchrow(
        f"select count(*) as count, {_MOVED} from line where {' and '.join(conditions)}", *values
    )
    assert row is not None
    return row["count"], int(row["moved"])


async def count_days(connection: Connection, account_id: UUID, wanted: Filter, days: Sequence[date]) -> dict[date, int]:
    """Count the lines of whole days, however many of them a page shows."""
    conditions: list[str] = ["account_id = $1", f"{_LOCAL_DAY} = any($2)"]
    values: list[Any] = [account_id, list(days)]
    _narrow(wanted, conditions, values)
    rows = await connection.fetch(
        f"select {_LOCAL_DAY} as local_day, count(*) as count from line where {' and '.join(conditions)} group by 1",
        *values,
    )
    return {row["local_day"]: row["count"] for row in rows}


async def find_newer_page(
    connection: Connection, account_id: UUID, wanted: Filter, before: int, limit: int
) -> int | None:
    """Find where the page ends that comes right above an older one; None where that is the first page.

    `before` is the older page's end: the page above has the `limit` lines from there on, up to what is given.
    """
    conditions, values = ["account_id = $1", "first_sequence >= $2"], [account_id, before]
    _narrow(wanted, conditions, values)
    found: int | None = await connection.fetchval(
        f"select first_sequence from line where {' and '.join(conditions)}"
        f" order by first_sequence offset {int(limit)} limit 1",
        *values,
    )
    return found


async def count_since(connection: Connection, account_id: UUID, wanted: Filter, since: int) -> int:
    """Count the lines that began after an event of the account."""
    conditions, values = ["account_id = $1", "first_sequence > $2"], [account_id, since]
    _narrow(wanted, conditions, values)
    count: int = await connection.fetchval(f"select count(*) from line where {' and '.join(conditions)}", *values)
    return count


def _narrow(wanted: Filter, conditions: list[str], values: list[Any]) -> None:
    if wanted.status == SETTLED:
        conditions.append("status <> 'declined'")
    elif wanted.status != "all":
        values.append(wanted.status)
        conditions.append(f"status = ${len(values)}")
    if wanted.text:
        values.append(search_form(wanted.text))
        conditions.append(f"position(${len(values)} in search_text) > 0")
    for day, sign in ((wanted.first_day, ">="), (wanted.last_day, "<=")):
        if day is not None:
            values.append(day)
            conditions.append(f"local_day {sign} ${len(values)}")


async def find_arrival(connection: Connection, payment_id: UUID) -> Arrival | None:
    """Tell when a payment's line appeared, if it did."""
    row = await connection.fetchrow(
        f"select status, {_OCCURRED_AT}, {_SHOWN_DAYS.format('projected_at')} as projected_at"
        " from line where payment_id = $1",
        payment_id,
    )
    return Arrival(**row) if row else None


def _line(row: asyncpg.Record) -> Line:
    return Line(**row)
