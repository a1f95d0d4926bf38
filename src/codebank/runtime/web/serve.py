"""Serves an ASGI application inside a role, under the role's own stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from codebank.runtime.listener import open_listener


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
            http="httptools",
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
