"""Carries out operations, whatever kinds they are: locate → read → decide → write → commit, a batch at a time.

What is decided was read without a lock; the one statement that writes it names the versions that were read, and writes
nothing where one has moved. Then the same is done once more, and after that under locks. So any number of banks may
work on one database: the database keeps them right. A batch waits for nobody: what somebody else holds is set aside.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import UUID

import asyncpg

from codebank.bank.deciding import Deciding, Known, Writes, account_of
from codebank.bank.operation import Answer, IssueCard, Operation, Reads
from codebank.bank.state import CardPlace, Merchant
from codebank.bank.store import reading, writing
from codebank.bank.store.writing import KeyTaken, Moved
from codebank.errors import CodebankError
from codebank.runtime.postgres.errors import LOCK_ERRORS
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id, utc_now

#: Places of cards kept in memory; a place never changes, so only the bound matters.
_PLACES_MAX: Final = 200_000
#: How often a batch is decided without locks before it takes them.
_FREE_ATTEMPTS: Final = 2
#: What sends a batch to the locks: somebody else was first, or holds something.
_CONTESTED: Final = (Moved, KeyTaken, *LOCK_ERRORS)


class Held(Enum):
    """Stands where an answer would: somebody else holds the account."""

    HELD = "held"


Result = Answer | CodebankError | Held
#: Card, by whatever names it → where it is.
Places = dict[bytes | str | UUID, CardPlace]


@dataclass
class Memory:
    """What is known beyond one batch."""

    places: Places = field(default_factory=dict)
    #: As they were read last; whoever decides on an older one is told that it has moved.
    merchants: dict[UUID, Merchant] = field(default_factory=dict)


@dataclass
class Executor:
    """Carries out batches of operations."""

    pool: asyncpg.Pool
    telemetry: Telemetry
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
        places = await _locate(connection, self._memory, reads)
        aside = [account_of(one, places, {}) in self._held for one in reads]
        free = [operation for operation, is_held in zip(operations, aside, strict=True) if not is_held]
        results = iter(await self._freely(connection, free) if free else ())
        return [Held.HELD if is_held else next(results) for is_held in aside]

    async def _freely(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        for _ in range(_FREE_ATTEMPTS):
            try:
                with self._traced(operations):
                    return await attempt(connection, self._memory, operations, self.telemetry)
            except Moved:
                self._memory.merchants.clear()
                self.telemetry.counter("codebank_batch_retries_total", "moved").inc()
            except _CONTESTED:
                self.telemetry.counter("codebank_batch_retries_total", "contested").inc()
                break
        return await self._under_locks(connection, operations)

    async def _under_locks(self, connection: Connection, operations: Sequence[Operation]) -> list[Result]:
        """Lock the accounts that are free, in the order of their ids, and carry out what concerns them."""
        self._memory.merchants.clear()
        async with connection.transaction():
            wanted = await accounts_of(connection, self._memory, operations)
            held = await reading.lock_accounts(connection, {one for one in wanted if one is not None})
            self._held.difference_update(one for one in wanted if one is not None)
            self._held |= held
            free = [operation for operation, one in zip(operations, wanted, strict=True) if one not in held]
            with self._traced(free):
                results = iter(await attempt(connection, self._memory, free, self.telemetry) if free else ())
            return [Held.HELD if one in held else next(results) for one in wanted]

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


async def attempt(
    connection: Connection, memory: Memory, operations: Sequence[Operation], telemetry: Telemetry | None = None
) -> list[Result]:
    """Read, decide and write a batch once. Raises Moved or KeyTaken where somebody else was first.

    Within a transaction of the caller's it is part of that one; otherwise it is one of its own.
    """
    known = await read_state(connection, memory, operations)
    deciding = Deciding(known, utc_now(), new_id)
    results: list[Result] = [deciding.answer(operation) for operation in operations]
    if not deciding.writes.is_empty:
        await _write(connection, deciding.writes, telemetry)
    return results


async def _write(connection: Connection, writes: Writes, telemetry: Telemetry | None) -> None:
    started = time.perf_counter()
    await writing.write(connection, writes)
    if telemetry is not None:
        telemetry.histogram("codebank_commit_seconds").observe(time.perf_counter() - started)


async def _locate(connection: Connection, memory: Memory, reads: Sequence[Reads]) -> Places:
    """Find the cards of a batch; those that are not known yet are looked up.

    What a batch uses is its own: the memory is shared with what happens beside it, and may be emptied meanwhile.
    """
    wanted = {one.card for one in reads if one.card is not None}
    unknown = [handle for handle in wanted if handle not in memory.places]
    if not unknown:
        return {handle: memory.places[handle] for handle in wanted}
    fingerprints = [handle for handle in unknown if isinstance(handle, bytes)]
    tokens = [handle for handle in unknown if isinstance(handle, str)]
    card_ids = [handle for handle in unknown if isinstance(handle, UUID)]
    places = {handle: memory.places[handle] for handle in wanted if handle in memory.places}
    found = await reading.locate_cards(connection, fingerprints, tokens, card_ids)
    if len(memory.places) > _PLACES_MAX:
        memory.places.clear()
    memory.places.update(found)
    return places | found


async def accounts_of(connection: Connection, memory: Memory, operations: Sequence[Operation]) -> list[UUID | None]:
    """Give the account that each operation is about, as far as it has one."""
    reads = [operation.reads() for operation in operations]
    places = await _locate(connection, memory, reads)
    targets = [one.target for one in reads if one.target is not None]
    keys = await reading.read_keys(connection, targets) if targets else {}
    return [account_of(one, places, keys) for one in reads]


async def read_state(connection: Connection, memory: Memory, operations: Sequence[Operation]) -> Known:
    """Read what a batch is to be decided on, without a lock: as a rule in one round trip."""
    reads = [operation.reads() for operation in operations]
    places, merchants = await _locate(connection, memory, reads), await _read_merchants(connection, memory, reads)
    names = {(one.key.caller_id, one.key.name) for one in operations if one.key is not None}
    names |= {one.target for one in reads if one.target is not None}
    account_ids, card_ids = set[UUID](), set[UUID]()
    for one in reads:
        if (account_id := account_of(one, places, {})) is not None:
            account_ids.add(account_id)
        if one.card is not None and one.card in places:
            card_ids.add(places[one.card].card_id)
    found = await reading.read_at_once(connection, account_ids, card_ids, names)
    known = Known(places, merchants, found.accounts, found.cards, keys=found.keys)
    await _read_issue_keys(connection, known, operations)
    if known.keys:
        await _read_what_keys_made(connection, known)
    return known


async def _read_what_keys_made(connection: Connection, known: Known) -> None:
    """Read what the keys that were taken before are answered with, or are about."""
    taken = known.keys.values()
    account_ids = {key.account_id for key in taken if key.account_id is not None} - known.accounts.keys()
    card_ids = {key.card_id for key in taken if key.card_id is not None} - known.cards.keys()
    if account_ids or card_ids:
        account_ids |= {key.account_id for key in taken if key.card_id in card_ids and key.account_id is not None}
        accounts, cards = await reading.read_accounts(connection, account_ids, card_ids)
        # What was read before stays: its cards were read with it.
        known.accounts, known.cards = accounts | known.accounts, cards | known.cards
    payment_ids = [key.payment_id for key in taken if key.payment_id is not None]
    if payment_ids:
        # After their accounts: a payment that changes from now on counts its account's version, and is noticed.
        known.payments = await reading.read_payments(connection, payment_ids)


async def _read_merchants(connection: Connection, memory: Memory, reads: Sequence[Reads]) -> dict[UUID, Merchant]:
    wanted = {one.merchant_id for one in reads if one.merchant_id is not None}
    found = {one: memory.merchants[one] for one in wanted if one in memory.merchants}
    if unknown := wanted - found.keys():
        found |= await reading.read_merchants(connection, unknown)
        memory.merchants.update(found)
    return found


async def _read_issue_keys(connection: Connection, known: Known, operations: Sequence[Operation]) -> None:
    """Look for keys that the release before kept with its cards."""
    wanted = {
        operation.key.name: (operation.key.caller_id, operation.key.name)
        for operation in operations
        if operation.kind == IssueCard.kind and operation.key is not None
    }
    missing = [name for name, full in wanted.items() if full not in known.keys]
    if missing:
        found = await reading.read_issue_keys(connection, missing)
        known.keys.update({wanted[name]: key for name, key in found.items()})
