"""Work that goes on when the browser that asked for it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass
class Tasks:
    """Tasks that belong to the process, not to a request."""

    _running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for work that is finished even if the waiting is given up."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self, timeout_seconds: int) -> None:
        """Wait until all is done, for a while."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_seconds)
