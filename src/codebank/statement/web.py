"""The statement's pages: sign-in, lines by day, refused attempts, export, and what is pushed to open pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from codebank.errors import HTTP_STATUS, Code, CodebankError
from codebank.money import Money
from codebank.runtime.web.http import SSE_HEARTBEAT, Json, push, read_form, sse_event
from codebank.runtime.web.pages import Pages
from codebank.statement.drawn import DrawnRows
from codebank.statement.export import csv_of
from codebank.statement.line import by_day, initial_of, tint_of, used_percent
from codebank.statement.live import Hub
from codebank.statement.query import PagePosition, Query, choose_account, read_page_position, read_query
from codebank.statement.session import SESSION_COOKIE, client_address, require_cardholder, token_of
from codebank.statement.sign_in import SignIn
from codebank.statement.store import reading as store

PAGE_SIZE: Final = 40
_REFUSED_SHOWN: Final = 20
_EXPORT_LINES_MAX: Final = 100_000
_HEARTBEAT_SECONDS: Final = 15


@dataclass
class Web:
    """Answers the statement's pages."""

    sign_in: SignIn
    pages: Pages
    hub: Hub
    secure_cookies: bool
    session_hours: int
    #: E-mail and password that a demo shows.
    demo_sign_in: tuple[str, str]
    rows: DrawnRows = field(default_factory=DrawnRows)

    def routes(self) -> list[Route]:
        """List the routes of the pages."""
        return [
            Route("/", self.statement, methods=["GET"]),
            Route("/sign-in", self.sign_in_page, methods=["GET"]),
            Route("/sign-in", self.enter, methods=["POST"]),
            Route("/sign-out", self.leave, methods=["POST"]),
            Route("/statement.csv", self.export, methods=["GET"]),
            Route("/live", self.live, methods=["GET"]),
            Route("/changes", self.changes, methods=["GET"]),
        ]

    async def sign_in_page(self, request: Request) -> Response:
        """Show the sign-in form."""
        return self._sign_in_form(request, "", 200)

    def _sign_in_form(self, request: Request, problem: str, status: int, retry: int | None = None) -> Response:
        email, password = self.demo_sign_in
        values = {"problem": problem, "demo_email": email, "demo_password": password, "cardholder": None}
        headers = {"retry-after": str(retry)} if retry else {}
        return self.pages.render(request, "sign_in.html", values, status=status, headers=headers)

    async def enter(self, request: Request) -> Response:
        """Sign a cardholder in; the session's token changes with every sign-in."""
        form = await read_form(request)
        try:
            token = await self.sign_in.enter(form.get("email", ""), form.get("password", ""), client_address(request))
        except CodebankError as error:
            return self._sign_in_form(request, str(error.code), HTTP_STATUS[error.code], error.retry_after_seconds)
        await self.sign_in.leave(token_of(request))
        response = RedirectResponse("/", status_code=303)
        response.set_cookie(
            SESSION_COOKIE,
            token,
            max_age=self.session_hours * 3600,
            httponly=True,
            samesite="lax",
            secure=self.secure_cookies,
        )
        return response

    async def leave(self, request: Request) -> Response:
        """Sign a cardholder out."""
        await self.sign_in.leave(token_of(request))
        response = RedirectResponse("/sign-in", status_code=303)
        response.delete_cookie(SESSION_COOKIE)
        return response

    async def statement(self, request: Request) -> Response:
        """Show the statement of one of the cardholder's accounts."""
        if await self.sign_in.who(token_of(request)) is None:
            return RedirectResponse("/sign-in", status_code=303)
        query = read_query(request.query_params, limit=PAGE_SIZE)
        return self.pages.render(request, "statement.html", await self._values(request, query, fresh_after=None))

    async def _values(self, request: Request, query: Query, *, fresh_after: int | None) -> dict[str, Any]:
        cardholder = await require_cardholder(self.sign_in, request)
        async with (
            self.sign_in.pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            accounts = await store.read_accounts(connection, cardholder.cardholder_id)
            if not accounts:
                return {"cardholder": cardholder, "account": None}
            account = choose_account(accounts, request.query_params.get("account", ""))
            lines = await store.read_lines(
                connection, account.account_id, query.wanted, before=query.before, limit=query.limit + 1
            )
            refused_only = replace(query.wanted, status="declined")
            refused = await store.read_lines(
                connection, account.account_id, refused_only, before=None, limit=_REFUSED_SHOWN
            )
            refused_count, _ = await store.sum_lines(connection, account.account_id, refused_only)
            count, moved_minor = await store.sum_lines(connection, account.account_id, query.wanted)
            days = by_day(lines[: query.limit])
            day_sums = await store.sum_days(connection, account.account_id, query.wanted, [day.day for day in days])
        shown = lines[: query.limit]
        return {
            "day_sums": day_sums,
            "cardholder": cardholder,
            "accounts": accounts,
            "account": account,
            "query": query,
            "days": days,
            "more": shown[-1].first_sequence if len(lines) > query.limit else None,
            "refused": refused,
            "refused_count": refused_count,
            "count": count,
            "moved": Money(moved_minor, account.currency),
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
        }

    async def export(self, request: Request) -> Response:
        """Give the lines that the filters choose as CSV."""
        cardholder = await require_cardholder(self.sign_in, request)
        query = read_query(request.query_params, limit=PAGE_SIZE)
        async with self.sign_in.pool.acquire() as connection:
            accounts = await store.read_accounts(connection, cardholder.cardholder_id)
            account = choose_account(accounts, request.query_params.get("account", ""))
            lines = await store.read_lines(
                connection, account.account_id, query.wanted, before=None, limit=_EXPORT_LINES_MAX
            )
        headers = {"content-disposition": 'attachment; filename="extrato.csv"', "cache-control": "no-store"}
        return Response(csv_of(lines), media_type="text/csv; charset=utf-8", headers=headers)

    async def changes(self, request: Request) -> Response:
        """Give what changed after an event, for pages that cannot be pushed to."""
        position = read_page_position(request.query_params.get("after", "0"))
        html, position = await self._fragments(request, read_query(request.query_params, limit=PAGE_SIZE), position)
        return Json({"after": str(position), "html": html}, headers={"cache-control": "no-store"})

    async def _fragments(self, request: Request, query: Query, position: PagePosition) -> tuple[str, PagePosition]:
        values = await self._values(request, query, fresh_after=position.sequence)
        account = values["account"]
        if account is None:
            return "", position
        found = PagePosition(max(position.sequence, account.sequence), values["behind_since"] is not None)
        # How fresh it is may turn without a new line.
        names = ["freshness"] if found.is_behind != position.is_behind else []
        names += ["top", "lines"] if account.sequence > position.sequence else []
        html = "".join(self.pages.block(request, "statement.html", name, values) for name in names)
        return html, found

    async def live(self, request: Request) -> Response:
        """Push what changes to an open page; `Last-Event-ID` says where the page stands."""
        last_event_id = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        position = read_page_position(last_event_id)
        query = read_query(request.query_params, limit=PAGE_SIZE)
        values = await self._values(request, query, fresh_after=position.sequence)
        if values["account"] is None:
            raise CodebankError(Code.NOT_FOUND, "no such account")
        return push(self._pushes(request, query, values["account"], position))

    async def _pushes(
        self, request: Request, query: Query, account: store.AccountView, position: PagePosition
    ) -> AsyncIterator[bytes]:
        with self.hub.page(account.account_id) as woken:
            yield SSE_HEARTBEAT
            while not self.hub.is_closing:
                # Cleared before looking: what comes meanwhile wakes again.
                woken.clear()
                span = self.hub.telemetry.tracer.begin("push", self.hub.trace_of(account.account_id), "producer")
                try:
                    html, position = await self._fragments(request, query, position)
                except CodebankError:
                    break  # the session ended
                if html:
                    yield sse_event(html, event="lines", event_id=str(position))
                    span.end()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT_SECONDS):
                        await woken.wait()
                if not woken.is_set():
                    yield SSE_HEARTBEAT
            if not self.hub.is_closing:
                yield sse_event("", event="bye")
