"""Connections to PostgreSQL, all opened the same way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
from asyncpg.pool import PoolAcquireContext

from codebank.runtime.postgres.errors import CONNECTION_ERRORS, DISCARDING_ERRORS
from codebank.runtime.watch.telemetry import Telemetry

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


async def _prepare(connection: asyncpg.Connection) -> None:
    for json_type in ("json", "jsonb"):
        await connection.set_type_codec(
            json_type,
            encoder=lambda value: msgspec.json.encode(value).decode(),
            decoder=msgspec.json.decode,
            schema="pg_catalog",
        )


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Spare the round trip with which the driver cleans up after every use."""


async def open_pool(
    dsn: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    role: str = "codebank",
    server_settings: Mapping[str, str] | None = None,
    meter: PoolMeter | None = None,
) -> asyncpg.Pool:
    """Open a pool whose connections speak UTC and JSON; `role` names the program in pg_stat_activity."""
    pool = _Pool(
        dsn,
        min_size=min_size,
        max_size=max_size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        setup=None,
        # No session of ours leaves anything behind: no cursors, no locks of its own, no settings.
        reset=_leave_as_it_is,
        init=_prepare,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        command_timeout=30,
        server_settings={"application_name": role, "timezone": "UTC", **(server_settings or {})},
    )
    if meter is not None:
        meter.watch(pool)
        pool.meter = meter
    return await pool


@dataclass(frozen=True, slots=True)
class PoolMeter:
    """Shows how a role's pool to one database fares."""

    telemetry: Telemetry
    database: str

    def watch(self, pool: asyncpg.Pool) -> None:
        """Let the pool be looked at whenever the metrics are read."""
        used = self.telemetry.gauge("codebank_pool_connections", self.database, "used")
        used.set_function(lambda: pool.get_size() - pool.get_idle_size())
        self.telemetry.gauge("codebank_pool_connections", self.database, "idle").set_function(pool.get_idle_size)

    def note(self, seconds: float) -> None:
        """Count a wait for a connection."""
        self.telemetry.histogram("codebank_pool_wait_seconds", self.database).observe(seconds)


class _Acquiring(PoolAcquireContext):
    """Throws a connection away after an error that it will not get over, instead of handing it to the next."""

    __slots__ = ()

    async def __aexit__(self, *raised: Any) -> None:
        if self.connection is not None and isinstance(raised[1], DISCARDING_ERRORS):
            self.connection.terminate()
        await super().__aexit__(*raised)


class _Pool(asyncpg.Pool):
    """A pool that times how long its connections are waited for: every way to one leads through `_acquire`."""

    __slots__ = ("meter",)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.meter: PoolMeter | None = None

    def acquire(self, *, timeout: float | None = None) -> _Acquiring:
        return _Acquiring(self, timeout)

    async def _acquire(self, timeout: float | None) -> Any:
        if self.meter is None:
            return await super()._acquire(timeout)  # type: ignore[misc]
        started = time.perf_counter()
        connection = await super()._acquire(timeout)  # type: ignore[misc]
        self.meter.note(time.perf_counter() - started)
        return connection


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
