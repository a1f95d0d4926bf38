"""The loads of `bench`, in a process of their own: what they send is made before the clock starts.

Closed loop: so many calls are kept under way. Open loop: calls begin at their time, whether or not earlier ones were
answered, as buyers do; a call that had to wait for its turn is late from when it should have begun.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

import uvloop

from codebank.bank.deciding import Deciding, Known
from codebank.bank.operation import Authorize, Key
from codebank.bank.state import CardPlace
from codebank.bank.store.reading import read_accounts, read_merchants
from codebank.bank.store.writing import write
from codebank.bank.test_cards import DEMO_MERCHANT
from codebank.errors import Code, CodebankError
from codebank.lab.http2 import Connection
from codebank.runtime.postgres.pool import connect
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id, utc_now

BATCH: Final = 100
BANK: Final = "/codebank.v1.Bank/Authorize"
BANK_STREAM: Final = "/codebank.v1.Bank/AuthorizeStream"
#: Messages of a stream under way at once.
STREAM_DEPTH: Final = 4
#: Stands where a request's key comes; keys are as long.
_KEY_PLACE: Final = b"bench-0000000000000000-000000000"
_CALL_SECONDS: Final = 30
#: Accounts that are charged in turn while a database is filled: more would not fit into memory.
_ACCOUNTS_AT_ONCE: Final = 10_000


#: Number, CVV, expiry year and month.
Card = tuple[str, str, int, int]


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to load, and with which cards."""

    address: str
    merchant_key: str
    bank_dsn: str
    cards: Sequence[Card]
    #: Several where processes share the port: the kernel spreads connections, not calls.
    connections: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn reached."""

    items: int
    microseconds: int
    #: Microseconds of single calls; of the messages of a stream.
    call_microseconds: Sequence[int]
    #: Processor time of the load itself.
    load_microseconds: int = 0

    @property
    def per_second(self) -> int:
        """Items in a second."""
        return self.items * 1_000_000 // max(1, self.microseconds)


def closed_loop(target: Target, seconds: int, path: str, callers: int) -> Turn:
    """Keep so many calls under way."""
    return _timed(_Calls(target, path).keep_under_way(callers, seconds))


def open_loop(target: Target, seconds: int, path: str, per_second: int) -> Turn:
    """Begin so many calls a second, each at its time."""
    return _timed(_Calls(target, path).begin_at_their_times(per_second, seconds))


def stream(target: Target, seconds: int, path: str) -> Turn:
    """Keep four messages of a hundred charges each under way on one stream."""
    return _timed(_Stream(target, path).run(seconds))


def _timed(load: Coroutine[Any, Any, Turn]) -> Turn:
    began = time.process_time_ns()
    turn = uvloop.run(load)
    cost = (time.process_time_ns() - began) // 1000
    return Turn(turn.items, turn.microseconds, turn.call_microseconds, cost)


def _requests(target: Target) -> Iterator[bytes]:
    """Write requests: all is encoded beforehand but the key, which is new each time and always as long."""
    halves = []
    for number, cvv, year, month in target.cards:
        request = pb.AuthorizeRequest(
            card_data=pb.CardData(number=number, cvv=cvv, expiry_year=year, expiry_month=month),
            amount=pb.Money(amount_minor=100, currency="BRL"),
            description="Bench",
            idempotency_key=_KEY_PLACE.decode(),
        )
        before, _, after = request.SerializeToString().partition(_KEY_PLACE)
        halves.append((before, after))
    prefix = f"bench-{new_id().hex[-16:]}-".encode()
    for serial in itertools.count():
        before, after = halves[random.randrange(len(halves))]  # noqa: S311 (a load, not a secret)
        yield b"%b%b%09d%b" % (before, prefix, serial, after)


@dataclass
class _Load:
    """What loads have in common: their connections, and how they end."""

    target: Target
    path: str
    _connections: list[Connection] = field(default_factory=list)
    _taken: list[int] = field(default_factory=list)

    async def _open(self, take: Callable[[int, int, bytes | None], None]) -> None:
        """Open the connections; `take` gets the number of the one, the call and the answer."""
        loop = asyncio.get_running_loop()
        self._requests = _requests(self.target)
        self._finished: asyncio.Future[None] = loop.create_future()
        host, _, port = self.target.address.rpartition(":")
        metadata = (("authorization", f"Bearer {self.target.merchant_key}"), ("grpc-timeout", f"{_CALL_SECONDS}S"))
        for number in range(self.target.connections):
            make = partial(Connection, self.target.address, self.path, metadata, partial(take, number), self._fail)
            try:
                _, connection = await loop.create_connection(make, host, int(port))
            except OSError as error:
                raise CodebankError(Code.UNAVAILABLE, f"nobody answers at {self.target.address}: {error}") from None
            self._connections.append(connection)

    def _fail(self, error: CodebankError) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)

    def _finish(self) -> None:
        if not self._finished.done():
            self._finished.set_result(None)

    async def _end(self, began: int, items_each: int = 1) -> Turn:
        """Wait until everything is answered."""
        try:
            await self._finished
        finally:
            for connection in self._connections:
                connection.close()
        elapsed = (time.perf_counter_ns() - began) // 1000
        return Turn(len(self._taken) * items_each, elapsed, sorted(self._taken))


@dataclass
class _Calls(_Load):
    """Calls of one charge each."""

    #: Connection and stream → when the call began, or should have.
    _began: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Until when an answer is followed by the next call.
    _until: int = 0
    #: Calls whose time has not come.
    _to_come: int = 0

    async def keep_under_way(self, callers: int, seconds: int) -> Turn:
        await self._open(self._take)
        began = time.perf_counter_ns()
        self._until = began + seconds * 10**9
        for number in range(callers):
            self._begin(number % len(self._connections), began)
        return await self._end(began)

    async def begin_at_their_times(self, per_second: int, seconds: int) -> Turn:
        await self._open(self._take)
        loop, began = asyncio.get_running_loop(), time.perf_counter_ns()
        at, self._to_come = loop.time(), per_second * seconds
        for number in range(self._to_come):
            should_begin = began + number * 10**9 // per_second
            loop.call_at(at + number / per_second, self._begin_now, number % len(self._connections), should_begin)
        return await self._end(began)

    def _begin_now(self, connection: int, should_begin: int) -> None:
        self._to_come -= 1
        self._begin(connection, should_begin)

    def _begin(self, connection: int, should_begin: int) -> None:
        self._began[connection, self._connections[connection].call(next(self._requests))] = should_begin

    def _take(self, connection: int, call: int, answer: bytes | None) -> None:
        assert answer is not None
        if pb.AuthorizeResponse.FromString(answer).payment.status != pb.PAYMENT_STATUS_APPROVED:
            self._fail(_refused())
        now = time.perf_counter_ns()
        self._taken.append((now - self._began.pop((connection, call))) // 1000)
        if now < self._until:
            self._begin(connection, now)
        elif not self._began and not self._to_come:
            self._finish()


@dataclass
class _Stream(_Load):
    """One stream of messages of many charges each."""

    _sent: deque[int] = field(default_factory=deque)

    async def run(self, seconds: int) -> Turn:
        await self._open(self._take)
        began = time.perf_counter_ns()
        self._until = began + seconds * 10**9
        self._call = self._connections[0].open_stream()
        for _ in range(STREAM_DEPTH):
            self._send(began)
        return await self._end(began, BATCH)

    def _send(self, now: int) -> None:
        # Field 1 of AuthorizeStreamRequest, as often as there are charges.
        charges = itertools.islice(self._requests, BATCH)
        self._connections[0].send(self._call, b"".join(b"\x0a" + _varint(len(one)) + one for one in charges))
        self._sent.append(now)

    def _take(self, _connection: int, _call: int, answer: bytes | None) -> None:
        if answer is None:
            self._finish()
            return
        results = pb.AuthorizeStreamResponse.FromString(answer).results
        if any(one.response.payment.status != pb.PAYMENT_STATUS_APPROVED for one in results):
            self._fail(_refused())
        now = time.perf_counter_ns()
        # Answers may come in another order; on the whole that makes no difference.
        self._taken.append((now - self._sent.popleft()) // 1000)
        if now < self._until:
            self._send(now)
        elif not self._sent:
            self._connections[0].end_stream(self._call)


def _refused() -> CodebankError:
    return CodebankError(Code.FAILED_PRECONDITION, "a payment of the load was not approved")


def _varint(number: int) -> bytes:
    """Write a length as protocol buffers do; those of charges have one byte or two."""
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))


def sql(target: Target, seconds: int) -> Turn:
    """Write the same rows with the same statement, without gRPC, and decided before the clock starts."""
    return _timed(_sql(target, seconds))


async def _sql(target: Target, seconds: int) -> Turn:
    connection: Any = await connect(target.bank_dsn, role="bench")
    try:
        known = await _known(connection, await connection.fetch("select card_id, account_id, token from card"))
        microseconds, taken = 0, []
        while microseconds < seconds * 1_000_000:
            taken.append(await _write_batch(connection, known))
            microseconds += taken[-1]
    finally:
        await connection.close()
    return Turn(len(taken) * BATCH, microseconds, sorted(taken))


def fill(target: Target, payments: int) -> int:
    """Write so many payments, spread over all accounts, and give how many there are."""
    return uvloop.run(_fill(target, payments))


async def _fill(target: Target, payments: int) -> int:
    connection: Any = await connect(target.bank_dsn, role="bench")
    written = 0
    try:
        rows = await connection.fetch("select card_id, account_id, token from card order by card_id")
        for first in range(0, len(rows), _ACCOUNTS_AT_ONCE):
            known = await _known(connection, rows[first : first + _ACCOUNTS_AT_ONCE])
            # What is to be there once these accounts have their share.
            while written < payments * min(len(rows), first + _ACCOUNTS_AT_ONCE) // len(rows):
                await _write_batch(connection, known)
                written += BATCH
    finally:
        await connection.close()
    return written


async def _known(connection: Any, rows: Sequence[Any]) -> Known:
    places: dict[bytes | str | UUID, CardPlace] = {
        row["token"]: CardPlace(row["account_id"], row["card_id"]) for row in rows
    }
    merchants = await read_merchants(connection, [DEMO_MERCHANT])
    everything = [row["account_id"] for row in rows], [row["card_id"] for row in rows]
    return Known(places, merchants, *await read_accounts(connection, *everything))


async def _write_batch(connection: Any, known: Known) -> int:
    """Write a batch of charges, and give its microseconds.

    What Python decides and builds is left out of the time; what PostgreSQL is sent is the same.
    """
    deciding, tokens = Deciding(known, utc_now(), new_id), list(known.places)
    for _ in range(BATCH):
        token = tokens[random.randrange(len(tokens))]  # noqa: S311 (a load)
        assert isinstance(token, str)
        deciding.answer(_charge(token))
    began = time.perf_counter_ns()
    await write(connection, deciding.writes)
    return (time.perf_counter_ns() - began) // 1000


def _charge(token: str) -> Authorize:
    return Authorize(
        key=Key(DEMO_MERCHANT, f"bench-sql-{new_id().hex}", bytes(32)),
        payment_id=new_id(),
        merchant_id=DEMO_MERCHANT,
        amount_minor=100,
        currency="BRL",
        description="Bench",
        parcelas=1,
        card_masked="••••",
        card_brand="card",
        handle=token,
        expiry=None,
        cvv_fits=None,
    )
