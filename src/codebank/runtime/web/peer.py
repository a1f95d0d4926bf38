"""Another program's HTTP interface, asked in JSON. For what is asked now and then; payments never pass here."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, cast

_SHOWN_BYTES = 500


def open_directly(
    request: urllib.request.Request, timeout_seconds: int, context: ssl.SSLContext | None = None
) -> AbstractContextManager[HTTPResponse]:
    """Send a request to where it says, through no proxy, whatever the environment says of one."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    return cast("HTTPResponse", opener.open(request, timeout=timeout_seconds))


class PeerError(Exception):
    """The other program says no; carries its status and what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status


class PeerUnavailable(Exception):
    """The other program does not answer, or not now: trying again later may help."""


@dataclass(frozen=True)
class Peer:
    """Where another program is, and how one signs in there."""

    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    #: Who vouches for it (PEM); empty: whom the system trusts.
    ca_file: str = ""
    timeout_seconds: int = 30

    async def ask(self, method: str, path: str, document: Any = None) -> Any:
        """Send a request, and give the answer's JSON, None where it has none.

        Raises PeerError for a refusal, PeerUnavailable where nobody answers or the answer is a failure of the server.
        """
        return await asyncio.to_thread(self._ask, method, path, document)

    def _ask(self, method: str, path: str, document: Any) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise PeerUnavailable(f"{self.url!r} is no address: it must begin with http:// or https://")
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, body, method=method)  # noqa: S310
        request.add_header("accept", "application/json")
        if body is not None:
            request.add_header("content-type", "application/json")
        if self.username:
            both = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
            request.add_header("authorization", f"Basic {both}")
        context = ssl.create_default_context(cafile=self.ca_file or None) if self.url.startswith("https") else None
        try:
            with open_directly(request, self.timeout_seconds, context) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_SHOWN_BYTES).decode(errors="replace")
            if error.code >= 500 or error.code == 429:
                raise PeerUnavailable(f"{self.url} answers {error.code}: {said}") from None
            raise PeerError(error.code, said) from None
        except (OSError, TimeoutError) as error:
            raise PeerUnavailable(f"{self.url} does not answer: {error}") from error
        return json.loads(text) if text else None
