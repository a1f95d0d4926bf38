"""How batches are spaced: what comes within a few milliseconds goes together, and costs as much as one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

#: Shorter than anybody notices, several times as long as a batch takes on the embedded log: however many events come,
#: the relay makes no more than 70 batches of them in a second, and whoever reads the log is woken no more often. On
#: Kafka the brokers end a transaction after its commit was acknowledged: a next one that comes at once is refused, and
#: asked for again 20 ms later, with its batch in hand.
REST_SECONDS: Final = 0.01


@dataclass
class Pace:
    """Lets some time pass between a batch and the next; the first one after a pause begins at once."""

    seconds: float = REST_SECONDS
    _next_at: float = field(default=0.0, init=False)

    def rest(self) -> None:
        """Say that a batch has ended."""
        self._next_at = asyncio.get_running_loop().time() + self.seconds

    async def wait(self) -> None:
        """Wait until the next batch may begin."""
        await asyncio.sleep(max(0.0, self._next_at - asyncio.get_running_loop().time()))
