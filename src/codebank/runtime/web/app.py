"""Web applications, all built the same way: guard, errors, preferences, static files, health of the thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codebank.errors import HTTP_STATUS, Code, CodebankError
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.runtime.watch.tracing import NOTHING, carrying
from codebank.runtime.web.http import local_address, problem, read_form
from codebank.runtime.web.language import LANGUAGES
from codebank.runtime.web.pages import THEMES, Pages

log = logging.getLogger(__name__)

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]

_PORTS: Final = {"http": 80, "https": 443}
_SAFE_METHODS: Final = {"GET", "HEAD", "OPTIONS"}
#: How long a page waits for its database before it says that this is away: a lock that a hung process of ours holds is
#: taken from it sooner, and whoever looks at a blank page gives up later.
PATIENCE_SECONDS: Final = 6
_YEAR_SECONDS: Final = 365 * 24 * 3600


def content_security_policy(connect: Sequence[str] = ()) -> str:
    """Say what a page may load: its own files only, and calls to the addresses named."""
    allowed = " ".join(["'self'", *connect])
    return (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        f"frame-ancestors 'none'; connect-src {allowed}"
    )


def create_app(
    *,
    pages: Pages,
    routes: Sequence[BaseRoute],
    telemetry: Telemetry,
    lifespan: Lifespan | None = None,
    connect: Sequence[str] = (),
    secure_cookies: bool = False,
) -> Starlette:
    """Build a site: its routes, with `/preferences` and `/static/`, behind the guard."""

    async def preferences(request: Request) -> Response:
        return await _set_preferences(request, secure=secure_cookies)

    app = Starlette(
        routes=[
            *routes,
            Route("/preferences", preferences, methods=["POST"]),
            Mount("/static", _CachedFiles(pages.static_folders)),
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(_Measure, telemetry=telemetry),
            Middleware(_Guard, policy=content_security_policy(connect)),
        ],
        exception_handlers={
            CodebankError: _on_error(pages),
            HTTPException: _on_http_exception(pages),
            **{error: _on_lost_database(pages) for error in OUTAGES},
            Exception: _on_crash(pages),
        },
    )
    app.state.pages = pages
    return app


class _CachedFiles(StaticFiles):
    """Static files of several folders; an address with `?v=` names its bytes and never changes."""

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__(directory=folders[0])
        self.all_directories = list(folders)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        versioned = scope["query_string"].startswith(b"v=")
        response.headers["cache-control"] = f"public, max-age={_YEAR_SECONDS}, immutable" if versioned else "no-cache"
        return response


class _Guard:
    """Refuses forged requests and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app = app
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        if is_forged(Request(scope)):
            error = CodebankError(Code.FORBIDDEN, "the request came from another site")
            await problem(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def is_forged(request: Request) -> bool:
    """Tell whether another site's page made this request (OWASP: Fetch Metadata, then Origin).

    A program that sends neither header holds no cookie of a reader, so it can forge nothing.
    """
    if request.method in _SAFE_METHODS:
        return False
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is not None and not is_same_origin(origin, request.headers.get("host", ""))


def is_same_origin(origin: str, host: str) -> bool:
    """Tell whether an `Origin` and a `Host` name one place, whatever their case, the scheme's own port spelt or not.

    The scheme is the origin's: in front of us somebody may speak TLS for us.
    """
    scheme = origin.partition("://")[0].lower()
    try:
        ours, theirs = _place(scheme, f"{scheme}://{host}"), _place(scheme, origin)
    except ValueError:
        return False
    return theirs is not None and ours == theirs


def _place(scheme: str, address: str) -> tuple[str, int] | None:
    """Give host and port of an address that has nothing else, None where it is none. Raises ValueError for no port."""
    parts = urlsplit(address)
    port = parts.port if parts.port is not None else _PORTS.get(scheme)
    plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    if port is None or not plain or not parts.hostname:
        return None
    name = parts.hostname.lower()
    return (str(ip_address(name)) if ":" in name else name), port


class _Measure:
    """Counts and times every request by its route, never by its path, so that labels stay few."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500
        tracer = self._telemetry.tracer
        is_traced = tracer.is_on and not scope["path"].startswith("/static/")
        span = tracer.begin_root("request", http__request__method=scope["method"]) if is_traced else NOTHING

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream"):
                    span.end()  # what is pushed later has spans of its own
            await send(message)

        try:
            with carrying(span):
                try:
                    await self._app(scope, receive, send_and_note)
                finally:
                    path = getattr(scope.get("route"), "path", "none")
                    span.name(f"{scope['method']} {path}")
                    span.set(http__route=path, http__response__status_code=status)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in {"GET", "HEAD", "POST", "OPTIONS"} else "other"
            self._telemetry.counter("codebank_http_requests_total", route, method, str(status)).inc()
            elapsed = time.perf_counter() - started
            self._telemetry.histogram("codebank_http_request_seconds", route).observe(elapsed)


def _wants_json(request: Request) -> bool:
    return request.url.path.startswith("/api/") or "application/json" in request.headers.get("accept", "").lower()


def _answer(pages: Pages, request: Request, error: CodebankError) -> Response:
    if _wants_json(request):
        return problem(error, instance=request.url.path)
    status = HTTP_STATUS[error.code]
    headers = {"retry-after": str(error.retry_after_seconds)} if error.retry_after_seconds is not None else {}
    values = {"status": status, "code": str(error.code)}
    return pages.render(request, "error.html", values, status=status, headers=headers)


def _on_error(pages: Pages) -> Any:
    async def handler(request: Request, error: CodebankError) -> Response:
        return _answer(pages, request, error)

    return handler


def _on_http_exception(pages: Pages) -> Any:
    codes = {404: Code.NOT_FOUND, 405: Code.INVALID}

    async def handler(request: Request, error: HTTPException) -> Response:
        code = codes.get(error.status_code, Code.INVALID)
        answer = _answer(pages, request, CodebankError(code, error.detail.lower()))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer

    return handler


def _on_lost_database(pages: Pages) -> Any:
    async def handler(request: Request, error: Exception) -> Response:
        log.warning("no connection to the database: %s", type(error).__name__, extra=fields(path=request.url.path))
        away = CodebankError(
            Code.UNAVAILABLE,
            "the database does not answer",
            hint="repeat the request with the same key",
            retry_after_seconds=1,
        )
        return _answer(pages, request, away)

    return handler


def _on_crash(pages: Pages) -> Any:
    async def handler(request: Request, error: Exception) -> Response:
        log.error("request failed", exc_info=error, extra=fields(path=request.url.path))
        return _answer(pages, request, CodebankError(Code.INTERNAL, "something went wrong on our side"))

    return handler


async def _set_preferences(request: Request, *, secure: bool) -> Response:
    form = await read_form(request)
    response = RedirectResponse(local_address(form.get("return_to", "/")), status_code=303)
    for name, choices in (("language", LANGUAGES), ("theme", THEMES)):
        if form.get(name) in choices:
            response.set_cookie(name, form[name], max_age=_YEAR_SECONDS, httponly=True, samesite="lax", secure=secure)
    return response
