"""Asks a PostgreSQL server whether it lets anybody in."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Final

_TIMEOUT_SECONDS: Final = 2
#: Eight bytes that ask whether it speaks TLS. It says yes or no however many sessions it has, or while it recovers.
_QUESTION: Final = struct.pack(">II", 8, 80877103)


async def lets_in(sockets: Path) -> bool:
    """Tell whether the server that listens in a folder answers whom it does not know yet."""
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_unix_connection(str(sockets / ".s.PGSQL.5432"))
            try:
                writer.write(_QUESTION)
                return await reader.read(1) != b""
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
