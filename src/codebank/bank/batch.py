"""Gathers charges that arrive while the previous commit is under way, and carries them out together.

No timer: a charge that finds the lane free goes at once. One lane per process keeps the arrival order of an account.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from codebank.bank.account import Charge
from codebank.bank.service import Answer
from codebank.errors import Code, CodebankError
from codebank.runtime.postgres.errors import CONNECTION_ERRORS, OUTAGES
from codebank.runtime.watch.telemetry import Telemetry

log = logging.getLogger(__name__)

Result = Answer | CodebankError
CarryOut = Callable[[Sequence[Charge]], Awaitable[list[Result]]]


@dataclass(slots=True, eq=False)
class _Group:
    """Charges that came in one message, answered together."""

    charges: Sequence[Charge]
    #: On the clock of `time.monotonic`.
    deadline: float | None
    answered: asyncio.Future[list[Result]]


@dataclass
class Batcher:
    """Carries out charges in batches; `run` is its one lane."""

    carry_out: CarryOut
    telemetry: Telemetry
    batch_size_max: int
    queue_size_max: int
    _waiting: deque[_Group] = field(default_factory=deque)
    _waiting_charges: int = 0
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _is_closing: bool = False

    async def submit(self, charges: Sequence[Charge], timeout_seconds: float | None) -> list[Result]:
        """Carry out charges with whoever else is waiting, and give the answers in the same order.

        A caller that gives up while its batch is under way disturbs nobody: its charges are carried out, and their
        keys tell what became of them. One whose deadline passes before its batch begins is not carried out.
        """
        if self._is_closing:
            raise CodebankError(Code.UNAVAILABLE, "the bank is stopping", retry_after_seconds=1)
        if self._waiting_charges + len(charges) > self.queue_size_max:
            raise CodebankError(Code.TOO_MANY, "too many authorisations are waiting", retry_after_seconds=1)
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        group = _Group(charges, deadline, asyncio.get_running_loop().create_future())
        self._waiting.append(group)
        self._waiting_charges += len(charges)
        self._arrived.set()
        return await group.answered

    async def run(self) -> None:
        """Work until closed, then answer what was taken before."""
        size = self.telemetry.histogram("codebank_batch_size")
        seconds = self.telemetry.histogram("codebank_batch_seconds")
        queue = self.telemetry.gauge("codebank_queue_items")
        while True:
            if not self._waiting:
                if self._is_closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            groups = self._gather()
            queue.set(self._waiting_charges)
            if not groups:
                continue
            charges = [charge for group in groups for charge in group.charges]
            started = time.perf_counter()
            results = await self._carry_out_safely(charges)
            size.observe(len(charges))
            seconds.observe(time.perf_counter() - started)
            _answer(groups, results)

    def close(self) -> None:
        """Take nothing more; `run` returns when all that was taken is answered."""
        self._is_closing = True
        self._arrived.set()

    def _gather(self) -> list[_Group]:
        now = time.monotonic()
        groups: list[_Group] = []
        size = 0
        while self._waiting and (not groups or size + len(self._waiting[0].charges) <= self.batch_size_max):
            group = self._waiting.popleft()
            self._waiting_charges -= len(group.charges)
            if group.answered.cancelled():
                continue  # its caller gave up before anything was done
            if group.deadline is not None and group.deadline <= now:
                late = CodebankError(Code.DEADLINE, "the deadline passed before the charge began; nothing was done")
                group.answered.set_result([late] * len(group.charges))
                continue
            groups.append(group)
            size += len(group.charges)
        return groups

    async def _carry_out_safely(self, charges: Sequence[Charge]) -> list[Result]:
        """Carry out a batch; if it fails as a whole, one by one, so that a bad one does not harm its neighbours."""
        try:
            return await self.carry_out(charges)
        except CONNECTION_ERRORS as error:
            log.warning("no connection to the database: %s", type(error).__name__)
            return [_unavailable()] * len(charges)
        except Exception as error:
            if len(charges) == 1 and isinstance(error, OUTAGES):
                return [_unavailable()]
            if len(charges) == 1:
                log.error("a charge failed", exc_info=error)
                return [CodebankError(Code.INTERNAL, "something went wrong on the bank's side")]
            log.warning("a batch failed and is tried one by one", exc_info=error)
        # Safe to repeat even where the failed commit went through: each key then gives its first answer.
        return [(await self._carry_out_safely([charge]))[0] for charge in charges]


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


def _answer(groups: Sequence[_Group], results: Sequence[Result]) -> None:
    position = 0
    for group in groups:
        mine = list(results[position : position + len(group.charges)])
        position += len(group.charges)
        # A caller that gave up meanwhile left a cancelled future behind.
        with contextlib.suppress(asyncio.InvalidStateError):
            group.answered.set_result(mine)
