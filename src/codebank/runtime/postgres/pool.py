"""Connections to PostgreSQL, all opened the same way."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
from asyncpg.pool import PoolAcquireContext

from codebank.runtime.postgres.driver import address
from codebank.runtime.postgres.errors import DISCARDING_ERRORS, OUTAGES
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_PAUSE_FIRST_SECONDS: Final = 0.1
_PAUSE_MAX_SECONDS: Final = 2
#: How long a server may take to let us in, and to answer a call.
_CONNECT_SECONDS: Final = 10
_COMMAND_SECONDS: Final = 30
#: Asked of the server for every session, so that it ends what a hung or vanished process of ours leaves open. No
#: transaction of ours waits for anything but its next statement; a lock is waited for longer than a hung holder may
#: keep it; a statement goes on longer than we wait for its answer only where nobody is left to call it off.
_SESSION: Final = {
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "8s",
    "statement_timeout": f"{_COMMAND_SECONDS + 5}s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
}
#: One that only reads holds nobody up: it may think between its statements, and read for long.
_READING_SESSION: Final = {
    **_SESSION,
    "default_transaction_read_only": "on",
    "idle_in_transaction_session_timeout": "10min",
    "statement_timeout": "6min",
}

_SESSION_NUMBERS: Final = itertools.count(1)


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
    read_only: bool = False,
    server_settings: Mapping[str, str] | None = None,
    meter: PoolMeter | None = None,
    patience_seconds: int | None = None,
) -> asyncpg.Pool:
    """Open a pool whose connections speak UTC and JSON; `role` names the program in pg_stat_activity.

    `patience_seconds`, where people wait for what is read, bounds each wait for a connection and for a statement.
    """
    session = _READING_SESSION if read_only else _SESSION
    if patience_seconds is not None:
        session = {**session, "statement_timeout": f"{patience_seconds + 5}s"}
    pool = _Pool(
        **address(dsn),
        min_size=min_size,
        max_size=max_size,
        max_queries=50_000,
        max_inactive_connection_lifetime=300.0,
        setup=None,
        # No session of ours leaves anything behind: no cursors, no locks of its own, no settings.
        reset=_leave_as_it_is,
        init=_prepare,
        loop=None,
        connection_class=_Session,
        record_class=asyncpg.Record,
        timeout=_CONNECT_SECONDS,
        command_timeout=patience_seconds or _COMMAND_SECONDS,
        server_settings={"application_name": role, **session, **(server_settings or {})},
    )
    pool.patience_seconds = patience_seconds
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


def lost(error: BaseException | None, connection: Connection) -> asyncpg.ConnectionDoesNotExistError | None:
    """Say it where an error means that the connection was lost; None where it means something else.

    The driver has one word for a connection that somebody cut and for one that is used wrongly. The first heals, the
    second is a mistake of ours that nobody must wait out: only the connection itself can tell them apart.
    """
    if type(error) is asyncpg.InterfaceError and _is_gone(connection):
        return asyncpg.ConnectionDoesNotExistError(str(error))
    return None


def _is_gone(connection: Connection) -> bool:
    # The pool takes a connection that was lost out of the hands of whoever holds it.
    held = getattr(connection, "_con", connection)
    return held is None or bool(held.is_closed())


class _Acquiring(PoolAcquireContext):
    """Throws a connection away after an error that it will not get over, instead of handing it to the next."""

    __slots__ = ()

    async def __aexit__(self, *raised: Any) -> None:
        connection = self.connection
        assert connection is not None
        loss = lost(raised[1], connection)
        if isinstance(raised[1], DISCARDING_ERRORS) and not _is_gone(connection):
            connection.terminate()
        await super().__aexit__(*raised)
        if loss is not None:
            raise loss from raised[1]


class _Session(asyncpg.Connection):
    """A session that can be told apart from every other of this process."""

    __slots__ = ("number",)

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.number = next(_SESSION_NUMBERS)


def session_of(connection: Connection) -> int:
    """Give the number of a pool's session: whoever connects anew has another, whatever the server gives them."""
    number: int = connection.number  # type: ignore[union-attr]
    return number


class _Pool(asyncpg.Pool):
    """A pool that times how long its connections are waited for: every way to one leads through `_acquire`."""

    __slots__ = ("meter", "patience_seconds")

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.meter: PoolMeter | None = None
        self.patience_seconds: int | None = None

    def acquire(self, *, timeout: float | None = None) -> _Acquiring:
        return _Acquiring(self, self.patience_seconds if timeout is None else timeout)

    async def _acquire(self, timeout: float | None) -> Any:
        if self.meter is None:
            return await super()._acquire(timeout)  # type: ignore[misc]
        started = time.perf_counter()
        connection = await super()._acquire(timeout)  # type: ignore[misc]
        self.meter.note(time.perf_counter() - started)
        return connection


async def connect(dsn: str, *, role: str = "codebank") -> asyncpg.Connection:
    """Open one connection that speaks UTC and JSON; it may hold and wait for locks as long as its work takes."""
    return await _connect(dsn, role, {"timezone": "UTC"})


@asynccontextmanager
async def connected(dsn: str, *, role: str) -> AsyncIterator[asyncpg.Connection]:
    """Give one connection like those of a pool; at the end of the block it is gone for sure."""
    connection = await _connect(dsn, role, _SESSION)
    try:
        yield connection
    except asyncpg.InterfaceError as error:
        loss = lost(error, connection)
        if loss is None:
            raise
        raise loss from error
    finally:
        connection.terminate()


async def _connect(dsn: str, role: str, session: Mapping[str, str]) -> asyncpg.Connection:
    connection: asyncpg.Connection = await asyncpg.connect(
        **address(dsn),
        timeout=_CONNECT_SECONDS,
        command_timeout=_COMMAND_SECONDS,
        server_settings={"application_name": role, **session},
    )
    await _prepare(connection)
    return connection


@asynccontextmanager
async def listening(dsn: str, channel: str, heard: Callable[[str], None], *, role: str) -> AsyncIterator[None]:
    """Call `heard` with the payload of each notification, and with "" after each new connection.

    A notification is a wake-up only: it may be lost while the connection is down, so `heard("")` asks the listener
    to look for itself.
    """
    async with background(_listen(dsn, channel, heard, role)):
        yield


async def _listen(dsn: str, channel: str, heard: Callable[[str], None], role: str) -> None:
    pause_seconds = _PAUSE_FIRST_SECONDS
    while True:
        try:
            async with connected(dsn, role=role) as connection:
                gone = await listen(connection, channel, heard)
                heard("")
                pause_seconds = _PAUSE_FIRST_SECONDS
                await gone.wait()
        except OUTAGES:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _PAUSE_MAX_SECONDS)


async def listen(connection: asyncpg.Connection, channel: str, heard: Callable[[str], None]) -> asyncio.Event:
    """Call `heard` with each notification; give what is set when the connection is lost."""
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _: gone.set())

    def on_notification(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        heard(str(payload))

    await connection.add_listener(channel, on_notification)
    return gone
