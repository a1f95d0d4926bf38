"""Asks a server that is not ours whether it can be used."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.request

from codebank.runtime.web.peer import open_directly

_TIMEOUT_SECONDS = 2


async def port_is_open(port: int) -> bool:
    """Tell whether somebody listens on a port of this machine."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
    return False


async def url_answers(url: str) -> bool:
    """Tell whether an address answers with success."""
    return await asyncio.to_thread(_answers, url)


def _answers(url: str) -> bool:
    request = urllib.request.Request(url)  # noqa: S310  # our own addresses only
    with contextlib.suppress(OSError), open_directly(request, _TIMEOUT_SECONDS) as answer:
        return bool(answer.status == 200)
    return False
