"""What a statement's page shows, read at one moment: account, lines by day, refused attempts, what is newer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from starlette.requests import Request

from codebank.money import Money
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.web.pages import Pages
from codebank.statement.day import by_day
from codebank.statement.drawn import DrawnRows
from codebank.statement.line import initial_of, tint_of, used_percent
from codebank.statement.live import Hub
from codebank.statement.query import Misfit, PagePosition, Query, choose_account
from codebank.statement.session import require_cardholder
from codebank.statement.sign_in import SignIn
from codebank.statement.store import reading as store
from codebank.statement.store.people import Cardholder

PAGE_SIZE: Final = 40
BEAT_SECONDS: Final = 10
_REFUSED_SHOWN: Final = 20


class Viewer(NamedTuple):
    """Who looks at a statement, and the accounts that are theirs."""

    cardholder: Cardholder
    accounts: list[store.AccountView]


@dataclass
class Showing:
    """Reads what pages and pushes show."""

    sign_in: SignIn
    pages: Pages
    hub: Hub
    rows: DrawnRows = field(default_factory=DrawnRows)

    async def viewer(self, request: Request) -> Viewer:
        """Tell who is asking. Raises CodebankError where nobody signed in."""
        cardholder = await require_cardholder(self.sign_in, request)
        async with self.sign_in.pool.acquire() as connection:
            return Viewer(cardholder, await store.read_accounts(connection, cardholder.cardholder_id))

    def position(self, account: store.AccountView) -> PagePosition:
        """Tell where a page stands that shows all that is known of an account."""
        return PagePosition(account.sequence, self.hub.behind_since(account.account_id) is not None)

    async def values(
        self,
        request: Request,
        cardholder: Cardholder,
        query: Query,
        *,
        misfits: Mapping[str, Misfit] | None = None,
        fresh_after: int | None = None,
    ) -> dict[str, Any]:
        """Read what a page shows; lines that changed after `fresh_after` are marked as new.

        Where something of the query does not fit no line is read: none would be what was asked for.
        """
        async with (
            self.sign_in.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            accounts = await store.read_accounts(connection, cardholder.cardholder_id)
            if not accounts:
                return {"cardholder": cardholder, "account": None}
            account = choose_account(accounts, request.query_params.get("account", ""))
            if fresh_after is not None:
                # What a page says that it has seen is believed no further than what there is.
                fresh_after = min(fresh_after, account.sequence)
            lines = {} if misfits else await _read_lines(connection, account, query, fresh_after)
        return lines | {
            "cardholder": cardholder,
            "accounts": accounts,
            "account": account,
            "query": query,
            "misfits": misfits or {},
            "typed": request.query_params,
            "percent": used_percent(account.limit_minor, account.used_minor),
            "free": Money(max(0, account.limit_minor - account.used_minor), account.currency),
            "limit": Money(account.limit_minor, account.currency),
            "used": Money(account.used_minor, account.currency),
            "money": Money,
            "tint_of": tint_of,
            "initial_of": initial_of,
            "fresh_after": fresh_after,
            "drawn": self.rows.drawing(self.pages.language(request), account.currency, fresh_after),
            "behind_since": self.hub.behind_since(account.account_id),
            "position": self.position(account),
            "beat_seconds": BEAT_SECONDS,
        }


async def _read_lines(
    connection: Connection, account: store.AccountView, query: Query, fresh_after: int | None
) -> dict[str, Any]:
    account_id, wanted, before = account.account_id, query.wanted, query.before
    found = await store.read_lines(connection, account_id, wanted, before=before, limit=query.limit + 1)
    shown = found[: query.limit]
    counts = await store.count_days(connection, account_id, wanted, sorted({line.local_day for line in shown}))
    count, moved = await store.sum_lines(connection, account_id, wanted)
    values: dict[str, Any] = {
        "days": by_day(shown, account.currency, counts),
        "newest": shown[0] if shown else None,
        "older": shown[-1].first_sequence if len(found) > query.limit else None,
        "newer": None,
        "count": count,
        "moved": Money(moved, account.currency),
        "refused": [],
        "refused_count": 0,
        "arrived": 0,
        "arrived_refused": 0,
    }
    refused_only = replace(wanted, status="declined")
    if before is not None:
        values["newer"] = await store.find_newer_page(connection, account_id, wanted, before, query.limit)
        since = min(query.since or account.sequence, account.sequence)
        values["arrived"] = await store.count_since(connection, account_id, wanted, since)
        return values
    if wanted.status == store.SETTLED:
        values["refused"] = await store.read_lines(
            connection, account_id, refused_only, before=None, limit=_REFUSED_SHOWN
        )
        values["refused_count"], _ = await store.sum_lines(connection, account_id, refused_only)
    if fresh_after is not None:
        values["arrived"] = sum(line.first_sequence > fresh_after for line in shown)
        values["arrived_refused"] = sum(line.first_sequence > fresh_after for line in values["refused"])
    return values
