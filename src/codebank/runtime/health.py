"""Asks another process whether it is ready."""

from __future__ import annotations

import asyncio
import contextlib

_TIMEOUT_SECONDS = 1


async def is_ready(host: str, port: int) -> bool:
    """Tell whether the role with this health port says that it can be used."""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /health/ready HTTP/1.0\r\nhost: health\r\n\r\n")
                status = await reader.readuntil(b"\r\n")
            finally:
                writer.close()
        return b" 200 " in status
    return False
