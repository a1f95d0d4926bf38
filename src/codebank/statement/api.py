"""The statement's REST: sessions, accounts, lines, and whether a payment has arrived."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codebank.errors import Code, CodebankError
from codebank.runtime.web.http import Json, read_json
from codebank.statement.line import Line
from codebank.statement.query import choose_account, read_query
from codebank.statement.session import SESSION_COOKIE, client_address, require_cardholder, token_of
from codebank.statement.sign_in import SignIn
from codebank.statement.store import reading as store

_PAGE_SIZE: Final = 50
_NO_STORE: Final = {"cache-control": "no-store"}


class SessionBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who signs in."""

    email: Annotated[str, msgspec.Meta(min_length=1, max_length=320)]
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


def line_document(line: Line) -> dict[str, Any]:
    """Show a line as REST tells it."""
    return {
        "payment_id": line.payment_id,
        "sequence": line.sequence,
        "status": line.status,
        "decline_code": line.decline_code,
        "merchant": {"name": line.merchant_name, "category": line.merchant_category},
        "description": line.description,
        "amount": {"amount_minor": line.amount_minor, "currency": line.currency},
        "refunded_minor": line.refunded_minor,
        "parcelas": line.parcelas,
        "card_masked": line.card_masked,
        "available_minor": line.available_minor,
        "occurred_at": line.occurred_at,
    }


def account_document(account: store.AccountView) -> dict[str, Any]:
    """Show an account as REST tells it."""
    return {
        "id": account.account_id,
        "holder_name": account.holder_name,
        "status": account.status,
        "currency": account.currency,
        "limit_minor": account.limit_minor,
        "used_minor": account.used_minor,
        "available_minor": account.limit_minor - account.used_minor,
        "sequence": account.sequence,
    }


@dataclass
class Api:
    """Answers the statement's REST."""

    sign_in: SignIn
    checkout_home: str
    secure_cookies: bool
    session_hours: int

    def routes(self) -> list[Route]:
        """List the routes of REST."""
        return [
            Route("/api/sessions", self.create_session, methods=["POST"]),
            Route("/api/sessions", self.end_session, methods=["DELETE"]),
            Route("/api/accounts", self.accounts, methods=["GET"]),
            Route("/api/accounts/{account_id}", self.account, methods=["GET"]),
            Route("/api/accounts/{account_id}/lines", self.lines, methods=["GET"]),
            Route("/api/arrivals/{payment_id}", self.arrival, methods=["GET"]),
            Route("/api/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def create_session(self, request: Request) -> Response:
        """Sign in."""
        body = await read_json(request, SessionBody)
        token = await self.sign_in.enter(body.email, body.password, client_address(request))
        response = Json({"token": token}, status_code=201, headers=_NO_STORE)
        response.set_cookie(
            SESSION_COOKIE,
            token,
            max_age=self.session_hours * 3600,
            httponly=True,
            samesite="lax",
            secure=self.secure_cookies,
        )
        return response

    async def end_session(self, request: Request) -> Response:
        """Sign out."""
        await self.sign_in.leave(token_of(request))
        response = Response(status_code=204)
        response.delete_cookie(SESSION_COOKIE)
        return response

    async def accounts(self, request: Request) -> Response:
        """List one's own accounts."""
        return Json({"accounts": [account_document(item) for item in await self._own(request)]}, headers=_NO_STORE)

    async def account(self, request: Request) -> Response:
        """Read one's own account."""
        account = choose_account(await self._own(request), request.path_params["account_id"])
        return Json(account_document(account), headers=_NO_STORE)

    async def lines(self, request: Request) -> Response:
        """List the lines of one's own account, newest first."""
        account = choose_account(await self._own(request), request.path_params["account_id"])
        query = read_query(request.query_params, limit=_PAGE_SIZE)
        async with self.sign_in.pool.acquire() as connection:
            found = await store.read_lines(
                connection, account.account_id, query.wanted, before=query.before, limit=query.limit + 1
            )
        shown = found[: query.limit]
        cursor = str(shown[-1].first_sequence) if len(found) > query.limit else None
        return Json({"lines": [line_document(line) for line in shown], "next_cursor": cursor}, headers=_NO_STORE)

    async def _own(self, request: Request) -> list[store.AccountView]:
        cardholder = await require_cardholder(self.sign_in, request)
        async with self.sign_in.pool.acquire() as connection:
            return await store.read_accounts(connection, cardholder.cardholder_id)

    async def arrival(self, request: Request) -> Response:
        """Tell whether a payment's line is there. Its id is unguessable, and nothing of an account is told."""
        try:
            payment_id = UUID(request.path_params["payment_id"])
        except ValueError:
            raise CodebankError(Code.NOT_FOUND, "no such payment") from None
        async with self.sign_in.pool.acquire() as connection:
            found = await store.find_arrival(connection, payment_id)
        place = urlsplit(self.checkout_home)
        headers = {**_NO_STORE, "access-control-allow-origin": f"{place.scheme}://{place.netloc}", "vary": "origin"}
        if found is None:
            return Json({"arrived": False, "status": None, "milliseconds_after_commit": None}, headers=headers)
        elapsed = found.projected_at - found.occurred_at
        late = max(0, elapsed.days * 86_400_000 + elapsed.seconds * 1000 + elapsed.microseconds // 1000)
        return Json({"arrived": True, "status": found.status, "milliseconds_after_commit": late}, headers=headers)

    async def openapi(self, _request: Request) -> Response:
        """Give the description of all this."""
        document = (resources.files("codebank.statement") / "openapi.json").read_bytes()
        return Response(document, media_type="application/json")
