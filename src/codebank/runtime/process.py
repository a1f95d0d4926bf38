"""A role as a process: one event loop, logs, health, and a stop that finishes what was taken."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Final

import uvloop

from codebank.runtime.watch.telemetry import HealthServer, Telemetry, configure_logging, fields

log = logging.getLogger(__name__)

_BEAT_SECONDS: Final = 0.5

#: A role's work: sets `telemetry.ready` when it can be used, returns when `stop` was set and all is finished.
Work = Callable[[Telemetry, asyncio.Event], Awaitable[None]]


def run_role(role: str, work: Work, telemetry: Telemetry, *, host: str, health_port: int, log_level: str) -> None:
    """Run a role until SIGTERM or SIGINT, then let it finish."""
    configure_logging(role, log_level)
    telemetry.gauge("codebank_info", version("codebank"), role).set(1)
    health = HealthServer(telemetry, host, health_port)
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

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    log.info("starting", extra=fields(role=role))
    _tune_garbage_collection()
    beating = asyncio.create_task(_keep_beating(telemetry))
    try:
        await work(telemetry, stop)
    finally:
        beating.cancel()
    log.info("stopped", extra=fields(role=role))


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
