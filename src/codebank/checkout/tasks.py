"""Work that goes on when the browser that asked for it goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.watch.telemetry import fields

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass
class Tasks:
    """Tasks that belong to the process, not to a request."""

    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for work that is finished even if the waiting is given up; then its error is told in the log."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_error)
            raise

    async def drain(self, timeout_seconds: int) -> None:
        """Wait until all is done, for a while; what is not done by then is given up, and said so."""
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=timeout_seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning("gave up what was not done in time", extra=fields(tasks=len(late)))
            await asyncio.wait(late)


def _tell_error(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, OUTAGES):
        log.warning("work that nobody waits for met an outage: %s", type(error).__name__)
    else:
        log.error("work that nobody waits for failed", exc_info=error)
