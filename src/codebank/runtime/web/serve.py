"""Serves an ASGI application inside a role, under the role's own stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from codebank.runtime.listener import open_listener

#: Requests that may wait on one connection behind the one under way; whoever sends more is let go.
_WAITING_MAX = 100


class _Protocol(HttpToolsProtocol):
    """A connection whose end is told to the request under way, whatever came behind it.

    The server's own reads no more once a second request waits, so that it does not see the end; and it tells the end to
    the last request only, so that a stream before it goes on for ever.
    """

    flow: FlowControl
    _under_way: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._under_way = cycle
        super()._start_asgi_task(cycle, app)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if len(self.pipeline) > _WAITING_MAX:
            self.transport.close()
        elif self.pipeline:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._under_way is not None and not self._under_way.response_complete:
            self._under_way.disconnected = True
            self._under_way.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """A server that leaves the process's signals to the process, and says when its port is open."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_app(
    app: ASGIApp,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    grace_seconds: int,
    keep_alive_seconds: int,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None] | None = None,
) -> None:
    """Serve until `stop` is set, then let requests under way finish, for `grace_seconds` at most.

    A connection stays open for `keep_alive_seconds` after an answer. Raises CodebankError where the port is taken.
    """
    listener = open_listener(host, port)
    server = _Server(
        uvicorn.Config(
            app,
            loop="none",
            http=_Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=keep_alive_seconds,
            timeout_graceful_shutdown=grace_seconds,
        ),
        on_ready,
    )

    async def serve() -> None:
        await server.serve([listener])
        if not server.should_exit:
            raise RuntimeError("the server ended by itself")

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(serve())
        try:
            await stop.wait()
        finally:
            # Also where the role is cancelled: the port must be free when this returns.
            if on_stop is not None:
                on_stop()
            server.should_exit = True
            await asyncio.wait({serving})
