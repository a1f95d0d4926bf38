"""Connections to PostgreSQL, all opened the same way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import msgspec

Result = TypeVar("Result")
Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

#: What a lost or refused connection raises. What was under way is then unknown: committed or not.
CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    # What the driver says when a connection is cut while it prepares the next step.
    asyncpg.InternalClientError,
)


async def _prepare(connection: asyncpg.Connection) -> None:
    for json_type in ("json", "jsonb"):
        await connection.set_type_codec(
            json_type,
            encoder=lambda value: msgspec.json.encode(value).decode(),
            decoder=msgspec.json.decode,
            schema="pg_catalog",
        )


async def open_pool(
    dsn: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    role: str = "codebank",
    server_settings: Mapping[str, str] | None = None,
) -> asyncpg.Pool:
    """Open a pool whose connections speak UTC and JSON; `role` names the program in pg_stat_activity."""
    return await asyncpg.create_pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        init=_prepare,
        command_timeout=30,
        server_settings={"application_name": role, "timezone": "UTC", **(server_settings or {})},
    )


async def connect(dsn: str, *, role: str = "codebank") -> asyncpg.Connection:
    """Open one connection like those of a pool."""
    connection = await asyncpg.connect(
        dsn, command_timeout=30, server_settings={"application_name": role, "timezone": "UTC"}
    )
    await _prepare(connection)
    return connection


@asynccontextmanager
async def listening(dsn: str, channel: str, heard: Callable[[str], None], *, role: str) -> AsyncIterator[None]:
    """Call `heard` with the payload of each notification, and with "" after each new connection.

    A notification is a wake-up only: it may be lost while the connection is down, so `heard("")` asks the listener
    to look for itself.
    """
    task = asyncio.create_task(_listen(dsn, channel, heard, role))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _listen(dsn: str, channel: str, heard: Callable[[str], None], role: str) -> None:
    pause_seconds = 0.1
    while True:
        try:
            connection = await connect(dsn, role=role)
        except CONNECTION_ERRORS:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, 2)
            continue
        pause_seconds = 0.1
        try:
            await _hear_until_lost(connection, channel, heard)
        except CONNECTION_ERRORS:
            pass
        finally:
            connection.terminate()


async def _hear_until_lost(connection: asyncpg.Connection, channel: str, heard: Callable[[str], None]) -> None:
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())

    def on_notification(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        heard(str(payload))

    await connection.add_listener(channel, on_notification)
    heard("")
    await lost.wait()


async def retrying(action: Callable[[], Awaitable[Result]], *, attempts: int = 5, pause_seconds: float = 0.1) -> Result:
    """Carry out a repeatable action, again after a lost connection, a few times with growing pauses."""
    for attempt in range(1, attempts):
        try:
            return await action()
        except CONNECTION_ERRORS:
            await asyncio.sleep(pause_seconds * 2**attempt)
    return await action()
