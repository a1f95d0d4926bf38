"""An application inside a role: it is served under the role's stop, and never longer than the role lives."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.applications import Starlette

from codebank.runtime.web.serve import serve_app
from tests.system import free_port

pytestmark = pytest.mark.anyio


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("cancelled", [False, True])
async def test_the_port_is_free_when_the_role_was_stopped_or_cancelled(cancelled: bool) -> None:
    port, stop, ready, told = free_port(), asyncio.Event(), asyncio.Event(), list[str]()

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(
            serve_app(
                Starlette(),
                "127.0.0.1",
                port,
                stop,
                grace_seconds=1,
                keep_alive_seconds=5,
                on_ready=ready.set,
                on_stop=lambda: told.append("stopped"),
            )
        )
        await ready.wait()
        assert not is_free(port)
        if cancelled:
            serving.cancel()
        else:
            stop.set()

    assert is_free(port)
    assert told == ["stopped"]
    assert serving.cancelled() == cancelled
