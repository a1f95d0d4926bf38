"""The threads on which Kafka's clients are used: calls come one after another, and none lasts for ever unnoticed.

A call of the client library may never return, such as the closing of a consumer. Its thread cannot be ended, so the
process is: whoever waits for the call is told that it is stuck, an error that no loop waits out, liveness says no from
then on, and no thread of these keeps a process from ending.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from confluent_kafka import KafkaException

from codebank.eventlog.kafka.client import PATIENCE_SECONDS, SLICE_SECONDS, cause_of, unavailable

Result = TypeVar("Result")

#: How long one call may last that is made of questions to the brokers, each of which ends by itself.
_STUCK_SECONDS: Final = PATIENCE_SECONDS * 6


class LaneStuck(Exception):
    """A call of the client library does not return: only the end of the process ends it."""


@dataclass
class _Work:
    """What a lane and its thread share."""

    calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = field(default_factory=SimpleQueue)
    #: On the clock of `time.monotonic`: when the call under way began; None between two calls.
    began_at: float | None = None

    def lasts_seconds(self) -> float:
        """Tell how long the call under way has lasted; 0 between two calls."""
        began_at = self.began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def carry_out(self) -> None:
        """Carry out one call after another until there is to be no more."""
        while (taken := self.calls.get()) is not None:
            future, call = taken
            if future.set_running_or_notify_cancel():
                self.began_at = time.monotonic()
                try:
                    result = call()
                except BaseException as error:
                    self.began_at = None
                    future.set_exception(error)
                else:
                    self.began_at = None
                    future.set_result(result)
                    del result
            # Nothing of a call is kept until the next one comes.
            del taken, future, call


class Lane:
    """The one thread on which a client is used."""

    def __init__(self, name: str, stuck_seconds: float = _STUCK_SECONDS) -> None:
        self.is_closed = False
        self.name = name
        self._stuck_seconds = stuck_seconds
        self._work = _Work()
        # It ends with its lane, and with the process in any case.
        weakref.finalize(self, self._work.calls.put, None)
        threading.Thread(target=self._work.carry_out, name=f"kafka-{name}", daemon=True).start()

    @property
    def is_stuck(self) -> bool:
        """Whether the call under way lasts longer than any should."""
        return self._work.lasts_seconds() > self._stuck_seconds

    @property
    def is_idle(self) -> bool:
        """Whether no call is under way."""
        return self._work.began_at is None

    async def run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Carry a blocking call out. Raises LogUnavailable for whatever the brokers or the client say."""
        try:
            return await self.try_run(function, *arguments, **named)
        except KafkaException as error:
            raise unavailable(error) from error

    async def try_run(self, function: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Carry a blocking call out, and let the client's own errors through.

        Raises LaneStuck where it, or one before it, does not return.
        """
        future: Future[Result] = Future()
        self._work.calls.put((future, functools.partial(function, *arguments, **named)))
        waiting = asyncio.wrap_future(future)
        while True:
            # Longer than what is left of the call under way need not be waited before looking again.
            left_seconds = max(0.05, self._stuck_seconds - self._work.lasts_seconds())
            await _wait_or_cancel(waiting, left_seconds)
            if waiting.done():
                return waiting.result()
            if self.is_stuck:
                waiting.cancel()
                lasts = self._work.lasts_seconds()
                raise LaneStuck(f"the Kafka client's thread {self.name} has not come back for {lasts:.0f} s")

    async def run_patiently(self, function: Callable[[float], Result]) -> Result:
        """Carry out a call that may be repeated, in slices, until it is done or patience ends."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                return await self.try_run(function, SLICE_SECONDS)
            except KafkaException as error:
                if not cause_of(error).retriable() or asyncio.get_running_loop().time() > deadline:
                    raise

    def close(self) -> None:
        """Let the thread end when its last call is over."""
        self.is_closed = True
        self._work.calls.put(None)


async def _wait_or_cancel(waiting: asyncio.Future[Any], seconds: float) -> None:
    """Wait for a call; who gives it up takes it out of the queue, if it has not begun."""
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    except asyncio.CancelledError:
        waiting.cancel()
        raise


@dataclass
class Lanes:
    """The lanes of one log."""

    _open: list[Lane] = field(default_factory=list)

    def open(self, name: str, stuck_seconds: float = _STUCK_SECONDS) -> Lane:
        """Open a lane; a call on it that lasts longer than that never returns."""
        lane = Lane(name, stuck_seconds)
        # One that was closed and has not come back yet still counts.
        self._open = [one for one in self._open if not (one.is_closed and one.is_idle)] + [lane]
        return lane

    def move(self) -> bool:
        """Tell whether none of them is stuck; asked from any thread."""
        return not any(lane.is_stuck for lane in self._open)
