"""Gathers what arrives while a commit is under way, and carries it out together: one commit for many orders.

No timer: what finds the lane free goes at once. A bad item harms none of its neighbours. Lanes that take turns commit
one after the other, so that each gathers while the other does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from codebank.runtime.postgres.errors import LOCK_ERRORS, OUTAGES

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class CommitLane(Generic[Item, Answer]):
    """Carries out batches, one after the other, while `run` is at work."""

    #: Carries out a batch, all of it or nothing, and answers in the same order. Safe to repeat.
    carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]]
    size_max: int
    #: Held while a batch is carried out; lanes may share it.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _waiting: deque[tuple[Item, asyncio.Future[Answer]]] = field(default_factory=deque, init=False)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def submit(self, item: Item) -> Answer:
        """Carry out an item with whoever else is waiting; raise what became of it where that is an error.

        Whoever gives up before the batch begins is not carried out; after that it is, and nobody is disturbed.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answered))
        self._arrived.set()
        return await answered

    async def run(self) -> None:
        """Work until cancelled; then nobody is left waiting."""
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        try:
            while True:
                await self._arrived.wait()
                async with self.turn:
                    batch = self._gather()
                    if not self._waiting:
                        self._arrived.clear()
                    results = await self._carry_out_safely([item for item, _ in batch]) if batch else []
                for (_, answered), result in zip(batch, results, strict=True):
                    _answer(answered, result)
        finally:
            for _, answered in (*batch, *self._waiting):
                answered.cancel()

    def _gather(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._waiting and len(batch) < self.size_max:
            item, answered = self._waiting.popleft()
            if not answered.cancelled():
                batch.append((item, answered))
        return batch

    async def _carry_out_safely(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        """Carry out a batch; where it fails by something that may be one item's alone, one by one."""
        try:
            return await self.carry_out(items)
        except Exception as error:
            is_everybodys = isinstance(error, OUTAGES) and not isinstance(error, LOCK_ERRORS)
            if len(items) == 1 or is_everybodys:
                return [error] * len(items)
            log.warning("a batch failed and is tried one by one: %s", type(error).__name__)
        return [one for item in items for one in await self._carry_out_safely([item])]


def _answer(answered: asyncio.Future[Answer], result: Answer | Exception) -> None:
    # Whoever gave up meanwhile left a cancelled future behind.
    with contextlib.suppress(asyncio.InvalidStateError):
        if isinstance(result, Exception):
            answered.set_exception(result)
        else:
            answered.set_result(result)
