"""Asks another process whether it is well."""

from __future__ import annotations

import asyncio
from enum import StrEnum

_TIMEOUT_SECONDS = 1


class Health(StrEnum):
    """What a role answered."""

    WELL = "well"
    NOT_WELL = "not well"
    #: Nobody listens there.
    ABSENT = "absent"


async def is_ready(host: str, port: int) -> bool:
    """Tell whether the role with this health port says that it can be used."""
    return await ask_health(host, port) is Health.WELL


async def ask_health(host: str, port: int, *, live: bool = False) -> Health:
    """Ask the role with this health port whether it can be used, or only whether it lives."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                path = "live" if live else "ready"
                writer.write(f"GET /health/{path} HTTP/1.0\r\nhost: health\r\n\r\n".encode())
                status = await reader.readuntil(b"\r\n")
            finally:
                writer.close()
    except ConnectionRefusedError:
        return Health.ABSENT
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return Health.NOT_WELL
    return Health.WELL if b" 200 " in status else Health.NOT_WELL
