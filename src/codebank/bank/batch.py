"""Gathers operations that arrive while the previous commit is under way, and carries them out together.

An operation that finds the lane free goes at once; only a lane under load waits a moment for more. One lane per process
keeps the arrival order of an account. What somebody else holds is set aside and tried again beside the lane, so that it
holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from codebank.bank.executor import Held, Result
from codebank.bank.operation import Answer, Operation
from codebank.bank.store.writing import KeyTaken, Moved
from codebank.errors import Code, CodebankError
from codebank.runtime.postgres.errors import LOCK_ERRORS, OUTAGES
from codebank.runtime.watch.telemetry import Telemetry

log = logging.getLogger(__name__)

#: How long what somebody else holds is waited for, and how often it is looked at.
_PATIENCE_SECONDS: Final = 2
_LOOK_SECONDS: Final = 0.02
#: So many that came while a commit was under way tell of load, and so many are worth a commit of their own; between
#: the two the lane waits for more, no longer than a handful of callers needs to be back (docs/decisions/0019).
_LOAD_OPERATIONS: Final = 3
_HANDFUL_OPERATIONS: Final = 8
_ENOUGH_OPERATIONS: Final = 32
_GATHER_SECONDS: Final = 0.003

Ended = Answer | CodebankError


class CarriesOut(Protocol):
    """Carries out a batch; what is held by somebody else it gives back as such."""

    async def carry_out(self, operations: Sequence[Operation]) -> list[Result]:
        """Decide and commit operations in arrival order; the answers come in the same order."""

    async def carry_out_held(self, operations: Sequence[Operation]) -> list[Result]:
        """Try again what was set aside."""


@dataclass(slots=True, eq=False)
class _Message:
    """Operations that came in one message, answered together."""

    operations: Sequence[Operation]
    #: On the clock of `time.monotonic`.
    deadline: float | None
    answered: asyncio.Future[list[Ended]]
    results: list[Result] = field(default_factory=list)
    #: Until when what is held is waited for.
    patient_until: float = 0.0

    def held(self) -> list[Operation]:
        """Give the operations that were set aside."""
        return [one for one, result in zip(self.operations, self.results, strict=True) if isinstance(result, Held)]

    def fill(self, results: Iterator[Result]) -> None:
        """Put results in the place of those that were held."""
        self.results = [next(results) if isinstance(result, Held) else result for result in self.results]

    def answer(self) -> bool:
        """Answer, if everything has ended."""
        if Held.HELD in self.results:
            return False
        if not self.answered.done():  # a caller that gave up meanwhile left a cancelled future behind
            self.answered.set_result(cast("list[Ended]", self.results))
        return True


@dataclass
class Batcher:
    """Carries out operations in batches: `run` is its one lane, `run_aside` what happens beside it."""

    executor: CarriesOut
    telemetry: Telemetry
    batch_size_max: int
    queue_size_max: int
    _waiting: deque[_Message] = field(default_factory=deque)
    _waiting_operations: int = 0
    _aside: list[_Message] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    #: How many the last batch had, and how many callers there seem to be.
    _answered_operations: int = 0
    _callers: int = 0
    #: How many a lane waits for, and whether they are here.
    _wanted_operations: int = 0
    _complete: asyncio.Event = field(default_factory=asyncio.Event)
    _set_aside: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when everything that was taken before the close is answered.
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closing: bool = False

    async def submit(self, operations: Sequence[Operation], timeout_seconds: float | None) -> list[Ended]:
        """Carry out operations with whoever else is waiting, and give the answers in the same order.

        A caller that gives up while its batch is under way disturbs nobody: its operations are carried out, and their
        keys tell what became of them. One whose deadline passes before its batch begins is not carried out.
        """
        if self._is_closing:
            raise CodebankError(Code.UNAVAILABLE, "the bank is stopping", retry_after_seconds=1)
        aside = sum(len(message.operations) for message in self._aside) if self._aside else 0
        if self._waiting_operations + aside + len(operations) > self.queue_size_max:
            raise CodebankError(Code.TOO_MANY, "too many operations are waiting", retry_after_seconds=1)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        message = _Message(operations, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(message)
        self._waiting_operations += len(operations)
        self._arrived.set()
        if self._waiting_operations >= self._wanted_operations:
            self._complete.set()
        return await message.answered

    async def run(self) -> None:
        """Work until cancelled; once closed, answer what was taken before, and say that it is."""
        size = self.telemetry.histogram("codebank_batch_size")
        seconds = self.telemetry.histogram("codebank_batch_seconds")
        queue = self.telemetry.gauge("codebank_queue_items")
        while True:
            if not self._waiting:
                if self._is_closing and not self._aside:
                    self.ended.set()
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._let_more_arrive()
            messages = self._gather()
            queue.set(self._waiting_operations)
            if not messages:
                continue
            operations = [operation for message in messages for operation in message.operations]
            started = time.perf_counter()
            results = await self._carry_out_safely(operations)
            self._answered_operations = len(operations)
            size.observe(len(operations))
            seconds.observe(time.perf_counter() - started)
            first = 0
            for message in messages:
                message.results = results[first : first + len(message.operations)]
                first += len(message.operations)
                if not message.answer():
                    self._put_aside(message)

    async def run_aside(self) -> None:
        """Try again and again what was set aside, until it is free or its caller's patience is over."""
        while True:
            await self._set_aside.wait()
            await asyncio.sleep(_LOOK_SECONDS)
            # Whose caller gave up before anything was done is not carried out any more.
            self._aside = [message for message in self._aside if not message.answered.cancelled()]
            tried = list(self._aside)
            results = iter(await self._try_held([operation for message in tried for operation in message.held()]))
            now = time.monotonic()
            for message in tried:
                message.fill(results)
                if now >= message.patient_until:
                    message.fill(iter([_unavailable()] * len(message.operations)))
            self._aside = [message for message in self._aside if not message.answer()]
            if not self._aside:
                self._set_aside.clear()
                self._arrived.set()  # a lane that closes waits for this

    def close(self) -> None:
        """Take nothing more; `ended` is set when all that was taken is answered."""
        self._is_closing = True
        self._arrived.set()

    def _put_aside(self, message: _Message) -> None:
        patience = time.monotonic() + _PATIENCE_SECONDS
        message.patient_until = patience if message.deadline is None else min(patience, message.deadline)
        self._aside.append(message)
        self._set_aside.set()

    async def _let_more_arrive(self) -> None:
        """Let a lane that is under load gather: each payment of a larger batch costs less, so all are answered sooner.

        Who finds the lane free goes at once, and so do one or two: a wait would only make them late. A handful of
        callers is waited for until all of them are here, who were just answered among them.
        """
        if not _LOAD_OPERATIONS <= self._waiting_operations < _ENOUGH_OPERATIONS or self._is_closing:
            return
        callers = self._waiting_operations + self._answered_operations
        # Many who come one by one look like few for a moment, so what was seen is forgotten slowly.
        self._callers = max(callers, self._callers - 1)
        if self._callers > _HANDFUL_OPERATIONS:
            await asyncio.sleep(_GATHER_SECONDS)
            return
        self._wanted_operations = callers
        self._complete.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                await self._complete.wait()

    def _gather(self) -> list[_Message]:
        now = time.monotonic()
        messages: list[_Message] = []
        size = 0
        while self._waiting and (not messages or size + len(self._waiting[0].operations) <= self.batch_size_max):
            message = self._waiting.popleft()
            self._waiting_operations -= len(message.operations)
            if message.answered.cancelled():
                continue  # its caller gave up before anything was done
            if message.deadline is not None and message.deadline <= now:
                late = CodebankError(Code.DEADLINE, "the deadline passed before the work began; nothing was done")
                message.answered.set_result([late] * len(message.operations))
                continue
            messages.append(message)
            size += len(message.operations)
        return messages

    async def _carry_out_safely(self, operations: Sequence[Operation]) -> list[Result]:
        """Carry out a batch; if it fails as a whole, one by one, so that a bad one does not harm its neighbours."""
        try:
            results = await self.executor.carry_out(operations)
        except (Moved, KeyTaken, *LOCK_ERRORS) as error:
            if len(operations) == 1:
                log.warning("an operation was overtaken again and again: %s", type(error).__name__)
                return [_unavailable()]
        except OUTAGES as error:
            log.warning("no answer from the database: %s", type(error).__name__)
            self.telemetry.ready.note("database", does=False)  # until whoever watches the database finds it well
            return [_unavailable()] * len(operations)
        except Exception as error:
            if len(operations) == 1:
                log.error("an operation failed", exc_info=error)
                return [CodebankError(Code.INTERNAL, "something went wrong on the bank's side")]
            log.warning("a batch failed and is tried one by one", exc_info=error)
        else:
            return results
        # Safe to repeat even where the failed commit went through: each key then gives its first answer.
        return [(await self._carry_out_safely([operation]))[0] for operation in operations]

    async def _try_held(self, operations: Sequence[Operation]) -> list[Result]:
        """Try what was set aside; where that fails, it is tried again until its callers' patience is over."""
        try:
            return await self.executor.carry_out_held(operations)
        except (Moved, KeyTaken, *OUTAGES) as error:
            log.debug("still set aside: %s", type(error).__name__)
        except Exception as error:
            log.warning("what was set aside failed and is tried one by one", exc_info=error)
            return await self._carry_out_safely(operations)
        return [Held.HELD] * len(operations)


@contextlib.contextmanager
def reaching_database() -> Iterator[None]:
    """Turn a lost database, or a lock waited for in vain, into an answer that says to repeat."""
    try:
        yield
    except OUTAGES as error:
        log.warning("no answer from the database: %s", type(error).__name__)
        raise _unavailable() from None


def _unavailable() -> CodebankError:
    return CodebankError(
        Code.UNAVAILABLE,
        "the bank cannot reach its database",
        hint="repeat the request with the same idempotency key",
        retry_after_seconds=1,
    )
