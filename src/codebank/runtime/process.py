"""A role as a process: one event loop, logs, health, and a stop that finishes what was taken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from importlib.metadata import version
from typing import Any, Final

import uvloop

from codebank.errors import CodebankError
from codebank.runtime.watch.telemetry import HealthServer, Telemetry, configure_logging, fields

log = logging.getLogger(__name__)

_BEAT_SECONDS: Final = 0.5

#: A role's work: sets `telemetry.ready` when it can be used, returns when `stop` was set and all is finished.
Work = Callable[[Telemetry, asyncio.Event], Awaitable[None]]


def run_role(
    role: str,
    work: Work,
    telemetry: Telemetry,
    *,
    host: str,
    health_port: int,
    log_level: str,
    health_door: socket.socket | None = None,
) -> None:
    """Run a role until SIGTERM or SIGINT, then let it finish; its health is told at a port, or at an open socket."""
    configure_logging(role, log_level)
    telemetry.gauge("codebank_info", version("codebank"), role).set(1)
    health = HealthServer(telemetry, host, health_port, health_door)
    health.start()
    try:
        uvloop.run(_until_stopped(role, work, telemetry))
    finally:
        health.stop()
        telemetry.tracer.close()


async def _until_stopped(role: str, work: Work, telemetry: Telemetry) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        telemetry.ready.clear()
        stop.set()

    when_asked_to_stop(on_signal)
    log.info("starting", extra=fields(role=role))
    _tune_garbage_collection()
    try:
        async with background(_keep_beating(telemetry)):
            await work(telemetry, stop)
    except Exception as error:
        if isinstance(error, CodebankError) and not telemetry.has_served:
            raise  # said at the start, in words that the operator understands
        # Whoever keeps this role starts it anew: better than one that goes on without a part of itself.
        log.critical("the role ends by an error that it does not know", extra=fields(role=role), exc_info=error)
        raise SystemExit(1) from None
    log.info("stopped", extra=fields(role=role))


def when_asked_to_stop(call: Callable[[], None]) -> None:
    """Call it when this process is asked to stop: by SIGTERM, by Ctrl-C, or by its terminal, which was closed."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, call)
    # Whoever starts it with nohup wants it to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, call)


@contextlib.asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do endless work beside the block; none of it ends alone.

    Work that ends by an error, or that ends at all, ends the block with it, and so the role: whoever keeps the role
    starts it anew. On leaving, the work is cancelled and waited for. One error is raised as it is, not as a group.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_endless(work), name=_name(work)) for work in works]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
        return
    except BaseExceptionGroup as group_of_errors:
        errors = group_of_errors
    finally:
        for work in works:
            # Of one that was cancelled before its first step nobody has taken note.
            work.close()
    # Raised out here, so that an error keeps the cause that it came with.
    raise errors.exceptions[0] if len(errors.exceptions) == 1 else errors


def _name(work: Coroutine[Any, Any, None]) -> str:
    return getattr(work, "__qualname__", "work")


async def _endless(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        await work
    except asyncio.CancelledError as error:
        if task.cancelling():
            raise
        # Such as a call whose channel somebody closed: a group would take it for an orderly end, and say nothing.
        raise RuntimeError(f"{task.get_name()} was cancelled from within") from error
    if not task.cancelling():
        raise RuntimeError(f"{task.get_name()} ended by itself")


async def _keep_beating(telemetry: Telemetry) -> None:
    """Show that the event loop turns, and how late it comes back."""
    loop, delay = asyncio.get_running_loop(), telemetry.histogram("codebank_event_loop_delay_seconds")
    while True:
        telemetry.beat()
        expected = loop.time() + _BEAT_SECONDS
        await asyncio.sleep(_BEAT_SECONDS)
        delay.observe(max(0.0, loop.time() - expected))


def _tune_garbage_collection() -> None:
    """Let the collector look rarely, and never at what was imported: it cost a tenth of the payment loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def pause(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, so long at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
