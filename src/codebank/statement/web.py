"""The statement's pages: sign-in, lines by day, refused attempts, export."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from codebank.errors import HTTP_STATUS, CodebankError
from codebank.runtime.web.http import local_address, read_form
from codebank.runtime.web.pages import Pages
from codebank.statement.export import Sheet
from codebank.statement.query import choose_account, look_at_query
from codebank.statement.session import SESSION_COOKIE, client_address, require_cardholder, token_of
from codebank.statement.showing import PAGE_SIZE, Showing
from codebank.statement.sign_in import SignIn
from codebank.statement.store import reading as store

#: Lines of an export that are read and held at once.
_EXPORT_STEP: Final = 500


@dataclass
class Web:
    """Answers the statement's pages."""

    sign_in: SignIn
    pages: Pages
    showing: Showing
    secure_cookies: bool
    session_hours: int
    #: E-mail and password that a demo shows.
    demo_sign_in: tuple[str, str]

    def routes(self) -> list[Route]:
        """List the routes of the pages."""
        return [
            Route("/", self.statement, methods=["GET"]),
            Route("/sign-in", self.sign_in_page, methods=["GET"]),
            Route("/sign-in", self.enter, methods=["POST"]),
            Route("/sign-out", self.leave, methods=["POST"]),
            Route("/statement.csv", self.export, methods=["GET"]),
        ]

    async def sign_in_page(self, request: Request) -> Response:
        """Show the sign-in form; it leads back to where one was."""
        token = token_of(request)
        problem = "over" if token and await self.sign_in.who(token) is None else ""
        return self._sign_in_form(request, problem, 200, return_to=request.query_params.get("return_to", ""))

    def _sign_in_form(
        self, request: Request, problem: str, status: int, *, return_to: str, retry: int | None = None
    ) -> Response:
        email, password = self.demo_sign_in
        values: dict[str, Any] = {
            "problem": problem,
            "demo_email": email,
            "demo_password": password,
            "cardholder": None,
            "return_to": local_address(return_to),
            # Whoever changes the language here comes back here, not to what was refused.
            "request_path": _sign_in_address(return_to),
        }
        headers = {"retry-after": str(retry)} if retry else {}
        return self.pages.render(request, "sign_in.html", values, status=status, headers=headers)

    async def enter(self, request: Request) -> Response:
        """Sign a cardholder in; the session's token changes with every sign-in."""
        form = await read_form(request)
        return_to = form.get("return_to", "")
        try:
            token = await self.sign_in.enter(form.get("email", ""), form.get("password", ""), client_address(request))
        except CodebankError as error:
            status, retry = HTTP_STATUS[error.code], error.retry_after_seconds
            return self._sign_in_form(request, str(error.code), status, return_to=return_to, retry=retry)
        await self.sign_in.leave(token_of(request))
        response = RedirectResponse(local_address(return_to), status_code=303)
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
        """Show the statement of one of the cardholder's accounts; a filter that does not fit is named beside it."""
        cardholder = await self.sign_in.who(token_of(request))
        if cardholder is None:
            return RedirectResponse(_sign_in_address(_page_address(request)), status_code=303)
        query, misfits = look_at_query(request.query_params, limit=PAGE_SIZE)
        values = await self.showing.values(request, cardholder, query, misfits=misfits)
        # The address of the page, also where an export brought the reader here.
        values["request_path"] = _page_address(request)
        return self.pages.render(request, "statement.html", values, status=422 if misfits else 200)

    async def export(self, request: Request) -> Response:
        """Give all the lines that the filters choose as CSV, as the reader's spreadsheet takes it."""
        if "text/html" in request.headers.get("accept", "") and await self.sign_in.who(token_of(request)) is None:
            return self._sign_in_form(request, "over", 401, return_to=_page_address(request))
        cardholder = await require_cardholder(self.sign_in, request)
        query, misfits = look_at_query(request.query_params, limit=PAGE_SIZE)
        if misfits:
            return await self.statement(request)
        async with self.sign_in.pool.acquire() as connection:
            accounts = await store.read_accounts(connection, cardholder.cardholder_id)
        account = choose_account(accounts, request.query_params.get("account", ""))
        sheet = Sheet(self.pages.language(request), partial(self.pages.say, request))
        name = self.pages.say(request, "csv.file")
        headers = {"content-disposition": f'attachment; filename="{name}.csv"', "cache-control": "no-store"}
        lines = self._exported(sheet, account.account_id, query.wanted)
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)

    async def _exported(self, sheet: Sheet, account_id: UUID, wanted: store.Filter) -> AsyncIterator[bytes]:
        # Each step is a statement of its own: however slowly somebody reads, the database holds nothing for them.
        piece, before = sheet.head(), None
        while piece:
            yield piece
            async with self.sign_in.pool.acquire() as connection:
                lines = await store.read_lines(connection, account_id, wanted, before=before, limit=_EXPORT_STEP)
            piece = sheet.rows(lines)
            before = lines[-1].first_sequence if lines else None


def _page_address(request: Request) -> str:
    """Give the address of the page that shows what was asked for."""
    return f"/?{request.url.query}" if request.url.query else "/"


def _sign_in_address(return_to: str) -> str:
    kept = local_address(return_to)
    return "/sign-in" if kept == "/" else f"/sign-in?{urlencode({'return_to': kept})}"
