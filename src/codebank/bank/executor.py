"""Carries out operations, whatever kinds they are: locate → read → decide → write → commit, a batch at a time.

What is decided on is remembered, or was read without a lock; the one statement that writes it names the versions that
it was decided on, and writes nothing where one has moved. Then it is read, and once more, and after that under locks.
So any number of banks may work on one database: the database keeps them right. A batch waits for nobody: what somebody
else holds is set aside.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import UUID

import asyncpg

from codebank.bank.deciding import Deciding, Known, Writes, account_of
from codebank.bank.known import accounts_of, locate, read_known
from codebank.bank.memory import Memory
from codebank.bank.operation import Answer, Operation
from codebank.bank.store import reading, writing
from codebank.bank.store.writing import KeyTaken, Moved
from codebank.errors import CodebankError
from codebank.runtime.postgres.errors import LOCK_ERRORS
from codebank.runtime.postgres.pool import Connection, session_of
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id, utc_now

#: How often a batch is decided without locks before it takes them.
_FREE_ATTEMPTS: Final = 2
#: What sends a batch to the locks: somebody else was first, or holds something.
_CONTESTED: Final = (Moved, KeyTaken, *LOCK_ERRORS)


class Held(Enum):
    """Stands where an answer would: somebody else holds the account."""

    HELD = "held"


Result = Answer | CodebankError | Held


@dataclass
class Executor:
    """Carries out batches of operations."""

    pool: asyncpg.Pool
    telemetry: Telemetry
    #: Called whenever something was written.
    on_written: Callable[[], None] = lambda: None
    _memory: Memory = field(default_factory=Memory)
    #: Accounts that somebody else held when they were last looked at.
    _held: set[UUID] = field(default_factory=set)

    async def carry_out(self, operations: Sequence[Operation]) -> list[Result]:
        """Decide a batch in arrival order and commit it; the answers come in the same order."""
        async with self.pool.acquire() as connection:
            if self._held:
                return await self._around_the_held(connection, operations)
            return await self._freely(connection, operations)

    async def carry_out_held(self, operations: Sequence[Operation]) -> list[Result]:
        """Try again what was set aside; what is still held stays so."""
        async with self.pool.acquire() as connection:
            return await self._under_locks(connection, operations)

    async def _around_the_held(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        reads = [operation.reads() for operation in operations]
        places = await locate(connection, self._memory, reads)
        aside = [account_of(one, places, {}) in self._held for one in reads]
        free = [operation for operation, is_held in zip(operations, aside, strict=True) if not is_held]
        results = iter(await self._freely(connection, free) if free else ())
        return [Held.HELD if is_held else next(results) for is_held in aside]

    async def _freely(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        """Decide on what is remembered, or on what is read, until nobody was faster; after that, under locks."""
        for number in range(1 + _FREE_ATTEMPTS):
            was_read = number > 0
            try:
                known = await self._known(connection, operations, is_read=was_read)
                if known is None:
                    continue
                results, writes = decide_all(known, operations)
                if not was_read and not writes.bears_out(operations, results):
                    continue
                await self._write(connection, operations, writes)
            except Moved:
                self._memory.forget(writes.accounts)
                self.telemetry.counter("codebank_batch_retries_total", "moved").inc()
            except _CONTESTED as error:
                if not was_read and isinstance(error, KeyTaken):
                    continue  # a repeat: only who reads the key can answer it
                self.telemetry.counter("codebank_batch_retries_total", "contested").inc()
                break
            else:
                self._memory.remember(session_of(connection), known, writes, was_read=was_read)
                return results
        return await self._under_locks(connection, operations)

    async def _known(self, connection: Connection, operations: Sequence[Operation], *, is_read: bool) -> Known | None:
        if is_read:
            return await read_known(connection, self._memory, operations)
        return self._memory.recall(session_of(connection), operations)

    async def _under_locks(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        """Lock the accounts that are free, in the order of their ids, and carry out what concerns them."""
        async with connection.transaction():
            wanted = await accounts_of(connection, self._memory, operations)
            # What is written here counts only once it is committed, and who needs locks has company.
            self._memory.forget(one for one in wanted if one is not None)
            held = await reading.lock_accounts(connection, {one for one in wanted if one is not None})
            self._held.difference_update(one for one in wanted if one is not None)
            self._held |= held
            free = [operation for operation, one in zip(operations, wanted, strict=True) if one not in held]
            results = iter(await self._at_once(connection, free) if free else ())
            return [Held.HELD if one in held else next(results) for one in wanted]

    async def _at_once(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        results, writes = decide_all(await read_known(connection, self._memory, operations), operations)
        await self._write(connection, operations, writes)
        return results

    async def _write(self, connection: Connection, operations: Sequence[Operation], writes: Writes) -> None:
        if writes.is_empty:
            return
        started = time.perf_counter()
        with self._traced(operations):
            await writing.write(connection, writes)
        self.telemetry.histogram("codebank_commit_seconds").observe(time.perf_counter() - started)
        self.on_written()

    @contextlib.contextmanager
    def _traced(self, operations: Sequence[Operation]) -> Iterator[None]:
        """Record the commit once for each operation that is traced: a batch serves many."""
        with contextlib.ExitStack() as stack:
            for operation in operations:
                if operation.traceparent:
                    span = self.telemetry.tracer.span(
                        "commit",
                        operation.traceparent,
                        db__system__name="postgresql",
                        codebank__batch_size=len(operations),
                        codebank__operation=operation.kind,
                        **operation.marks(),
                    )
                    stack.enter_context(span)
            yield


async def carry_out_within(connection: Connection, operations: Sequence[Operation]) -> list[Result]:
    """Carry out operations within the caller's transaction. Raises Moved or KeyTaken where somebody else was first."""
    results, writes = decide_all(await read_known(connection, Memory(), operations), operations)
    if not writes.is_empty:
        await writing.write(connection, writes)
    return results


def decide_all(known: Known, operations: Sequence[Operation]) -> tuple[list[Result], Writes]:
    """Decide operations in their order."""
    deciding = Deciding(known, utc_now(), new_id)
    return [deciding.answer(operation) for operation in operations], deciding.writes
