"""Statement pages that are open while a load runs: cardholders who signed in, and note when they were shown what."""

from __future__ import annotations

import asyncio
import re
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import msgspec

from codebank.errors import Code, CodebankError
from codebank.runtime.process import background
from codebank.settings import Settings
from codebank.statement.sign_in import password_hasher
from codebank.statement.store.people import add_cardholder, forget_attempts
from codebank.wire import new_id, utc_now

_PATIENCE_SECONDS: Final = 20
_CHUNK: Final = 65536
_OWN_ADDRESS: Final = "address:127.0.0.1"
#: Which event of its account a push shows as the last one; a page may be told besides that it is behind.
_SHOWN: Final = re.compile(rb"\nid: (\d+)b?\n")
_SHOWN_LENGTH_MAX: Final = 40


@dataclass
class Page:
    """An open page of one account."""

    account_id: UUID
    token: str
    #: Last event shown by each push, rising, and when the push arrived.
    sequences: list[int] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    has_shown: asyncio.Event = field(default_factory=asyncio.Event)

    def shown_at(self, sequence: int) -> datetime | None:
        """Tell when an event of the account could be seen; None if never."""
        place = bisect_left(self.sequences, sequence)
        return self.times[place] if place < len(self.times) else None

    async def watch(self, home: str) -> None:
        """Hold the page open, and note what is pushed. Raises CodebankError where it is closed."""
        reader, writer = await _ask(home, f"GET /live?account={self.account_id}&after=0", self.token)
        try:
            rest = b""
            while chunk := await reader.read(_CHUNK):
                self.note(rest + chunk)
                rest = chunk[-_SHOWN_LENGTH_MAX:]
        finally:
            writer.close()
        raise CodebankError(Code.UNAVAILABLE, f"the page of the account {self.account_id} was closed")

    def note(self, text: bytes) -> None:
        """Read from a piece of the stream what it shows."""
        for found in _SHOWN.finditer(text):
            sequence = int(found[1])
            if sequence > (self.sequences[-1] if self.sequences else 0):
                self.sequences.append(sequence)
                self.times.append(utc_now())
                self.has_shown.set()


@asynccontextmanager
async def open_pages(
    settings: Settings, statement: asyncpg.Pool, account_ids: Sequence[UUID]
) -> AsyncIterator[list[Page]]:
    """Keep the page of each account open for as long as the block lasts; each is a cardholder's own."""
    password, home = secrets.token_urlsafe(), settings.statement_home()
    password_hash = password_hasher().hash(password)
    pages = []
    for account_id in account_ids:
        email = f"bench-{new_id().hex}@codebank.example"
        async with statement.acquire() as connection:
            await add_cardholder(connection, email, "Bench", password_hash, [account_id])
            # Many people behind one address, as the pages would take it.
            await forget_attempts(connection, _OWN_ADDRESS)
        pages.append(Page(account_id, await _sign_in(home, email, password)))
    async with background(*(page.watch(home) for page in pages)):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for page in pages:
                await page.has_shown.wait()
        yield pages


async def _sign_in(home: str, email: str, password: str) -> str:
    body = msgspec.json.encode({"email": email, "password": password})
    reader, writer = await _ask(home, "POST /api/sessions", "", body)
    try:
        answer: dict[str, Any] = msgspec.json.decode(await reader.read())
    finally:
        writer.close()
    return str(answer["token"])


async def _ask(
    home: str, what: str, token: str, body: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask the statement, and give what follows the headers. HTTP 1.0: the answer comes unframed, until it is closed."""
    place = urlsplit(home)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    headers = [f"{what} HTTP/1.0", f"host: {place.netloc}", f"content-length: {len(body)}"]
    headers += ["content-type: application/json"] if body else [f"authorization: Bearer {token}"]
    writer.write("\r\n".join([*headers, "", ""]).encode() + body)
    head = await reader.readuntil(b"\r\n\r\n")
    if head.split(b" ", 2)[1][:1] != b"2":
        writer.close()
        raise CodebankError(Code.UNAVAILABLE, f"{what} was answered {head.splitlines()[0].decode()}")
    return reader, writer
