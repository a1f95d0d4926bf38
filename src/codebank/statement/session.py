"""Who is asking: the session behind a request, from its cookie or its bearer token."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from codebank.errors import Code, CodebankError
from codebank.statement.sign_in import SignIn
from codebank.statement.store.people import Cardholder

SESSION_COOKIE: Final = "session"


def token_of(request: Request) -> str:
    """Give the token that a request carries, or nothing."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.cookies.get(SESSION_COOKIE, "")


async def require_cardholder(sign_in: SignIn, request: Request) -> Cardholder:
    """Give who is asking. Raises CodebankError where nobody signed in."""
    cardholder = await sign_in.who(token_of(request))
    if cardholder is None:
        raise CodebankError(Code.UNAUTHENTICATED, "sign in first")
    return cardholder


def client_address(request: Request) -> str:
    """Give the address that a request came from, as the server in front of us tells it."""
    return request.client.host if request.client else "unknown"
