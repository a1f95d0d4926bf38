"""A role as a process: one event loop, logs, health, and a stop that finishes what was taken."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable

import uvloop

from codebank.runtime.telemetry import HealthServer, Telemetry, configure_logging, fields

log = logging.getLogger(__name__)

#: A role's work: sets `telemetry.ready` when it can be used, returns when `stop` was set and all is finished.
Work = Callable[[Telemetry, asyncio.Event], Awaitable[None]]


def run_role(role: str, work: Work, *, host: str, health_port: int, log_level: str) -> None:
    """Run a role until SIGTERM or SIGINT, then let it finish."""
    configure_logging(role, log_level)
    telemetry = Telemetry()
    health = HealthServer(telemetry, host, health_port)
    health.start()
    try:
        uvloop.run(_until_stopped(role, work, telemetry))
    finally:
        health.stop()


async def _until_stopped(role: str, work: Work, telemetry: Telemetry) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        telemetry.ready.clear()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    log.info("starting", extra=fields(role=role))
    _tune_garbage_collection()
    await work(telemetry, stop)
    log.info("stopped", extra=fields(role=role))


def _tune_garbage_collection() -> None:
    """Let the collector look rarely, and never at what was imported: it cost a tenth of the payment loop."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
