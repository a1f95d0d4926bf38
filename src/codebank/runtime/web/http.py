"""What every HTTP door does: read JSON and forms with named errors, answer problems (RFC 9457), push events."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from codebank.errors import HTTP_STATUS, Code, CodebankError, Violation, invalid

Body = TypeVar("Body")

BODY_BYTES_MAX: Final = 64 * 1024
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")


class Json(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the value."""
        return msgspec.json.encode(content)


def problem(error: CodebankError, *, instance: str = "") -> Response:
    """Answer an error as a problem document (RFC 9457)."""
    body: dict[str, Any] = {
        "type": f"urn:codebank:problem:{error.code}",
        "title": error.code.replace("_", " "),
        "status": HTTP_STATUS[error.code],
        "detail": error.message,
    }
    if error.violations:
        body["errors"] = [{"field": item.field, "detail": item.reason} for item in error.violations]
    if error.hint:
        body["hint"] = error.hint
    if instance:
        body["instance"] = instance
    headers = {"cache-control": "no-store"}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    return Response(
        msgspec.json.encode(body),
        status_code=HTTP_STATUS[error.code],
        media_type="application/problem+json",
        headers=headers,
    )


async def read_body(request: Request) -> bytes:
    """Read a body of bounded size.

    Raises CodebankError (too large) before more than the bound has been taken in.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise CodebankError(Code.TOO_LARGE, f"the body is larger than {BODY_BYTES_MAX} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def media_type(request: Request) -> str:
    """Give the type of what was sent, without its parameters; types know no case (RFC 9110, 8.3.1)."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def one_header(request: Request, name: str) -> str:
    """Give a header that stands for one thing, empty where it is missing.

    Raises CodebankError where it was sent twice with different values: nobody knows which was meant.
    """
    values = set(request.headers.getlist(name))
    if len(values) > 1:
        raise invalid(Violation(name, "was sent more than once, with different values"))
    return next(iter(values), "")


async def read_json(request: Request, shape: type[Body]) -> Body:
    """Read a JSON body of a given shape.

    Raises CodebankError naming the field that does not fit.
    """
    if media_type(request) != "application/json":
        raise invalid(Violation("content-type", "must be application/json"))
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _PATH.search(text)
        field = (match[1] if match else "") or "body"
        reason = _PATH.sub("", text).replace("`", "'")
        raise invalid(Violation(field, reason[:1].lower() + reason[1:])) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid(Violation("body", "is not valid JSON in UTF-8")) from None


async def read_form(request: Request) -> dict[str, str]:
    """Read a form; of a field sent twice the last one counts.

    Raises CodebankError when the body is too large or no form.
    """
    if media_type(request) != "application/x-www-form-urlencoded":
        raise invalid(Violation("content-type", "must be application/x-www-form-urlencoded"))
    body = await read_body(request)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise invalid(Violation("body", "is not a form in UTF-8")) from None
    return dict(pairs)


def is_clean_text(text: str) -> bool:
    """Tell whether a text may be stored: no control character (NUL among them) and no lone surrogate."""
    return all(ord(character) >= 32 and not 0x7F <= ord(character) <= 0x9F for character in text) and not any(
        "\ud800" <= character <= "\udfff" for character in text
    )


def local_address(text: str) -> str:
    """Give an address of our own to lead back to, and the first page where it is none: nobody is sent elsewhere."""
    is_ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and is_clean_text(text)
    return text if is_ours else "/"


class _EventStream(StreamingResponse):
    """A stream that lets go of what its events hold the moment that it ends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        assert isinstance(self.body_iterator, AsyncGenerator)
        async with contextlib.aclosing(self.body_iterator):
            await super().stream_response(send)


def push(events: AsyncGenerator[bytes]) -> StreamingResponse:
    """Answer with server-sent events."""
    return _EventStream(
        events,
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


def sse_event(data: str, *, event: str = "", event_id: str = "") -> bytes:
    """Write one server-sent event; a line break in the data becomes a line of its own."""
    lines = [f"event: {event}"] if event else []
    if event_id:
        lines.append(f"id: {event_id}")
    lines += [f"data: {line}" for line in data.splitlines() or [""]]
    return ("\n".join(lines) + "\n\n").encode()
