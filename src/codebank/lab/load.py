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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import uvloop

from codebank.errors import Code, CodebankError
from codebank.lab.http2 import Connection, Fail, Take
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id

BATCH: Final = 100
BANK: Final = "/codebank.v1.Bank/Authorize"
BANK_STREAM: Final = "/codebank.v1.Bank/AuthorizeStream"
#: Messages of a stream under way at once.
STREAM_DEPTH: Final = 4
#: Stands where a request's key comes; keys are as long.
_KEY_PLACE: Final = b"bench-0000000000000000-000000000"
_CALL_SECONDS: Final = 30


#: Number, CVV, expiry year and month, token.
Card = tuple[str, str, int, int, str]


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to load, and with which cards."""

    address: str
    merchant_key: str
    bank_dsn: str
    cards: Sequence[Card]
    #: Several where processes share the port: the kernel spreads connections, not calls.
    connections: int = 1
    operator_key: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn reached."""

    items: int
    microseconds: int
    #: Microseconds of single calls; of the messages of a stream.
    call_microseconds: Sequence[int]
    #: Processor time of the load itself.
    load_microseconds: int = 0
    #: Of the items, those that made no payment.
    others: int = 0

    @property
    def per_second(self) -> int:
        """Items in a second."""
        return self.items * 1_000_000 // max(1, self.microseconds)


def closed_loop(target: Target, seconds: int, path: str, callers: int) -> Turn:
    """Keep so many calls under way."""
    return timed(_Calls(target, path).keep_under_way(callers, seconds))


def open_loop(target: Target, seconds: int, path: str, per_second: int) -> Turn:
    """Begin so many calls a second, each at its time."""
    return timed(_Calls(target, path).begin_at_their_times(per_second, seconds))


def stream(target: Target, seconds: int, path: str) -> Turn:
    """Keep four messages of a hundred charges each under way on one stream."""
    return timed(_Stream(target, path).run(seconds))


def timed(load: Coroutine[Any, Any, Turn]) -> Turn:
    """Run a load, and note what it took itself."""
    began = time.process_time_ns()
    turn = uvloop.run(load)
    return replace(turn, load_microseconds=(time.process_time_ns() - began) // 1000)


def authorizations(target: Target) -> Iterator[bytes]:
    """Write requests: all is encoded beforehand but the key, which is new each time and always as long."""
    halves = []
    for number, cvv, year, month, _token in target.cards:
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


async def connect(address: str, path: str, key: str, take: Take, fail: Fail) -> Connection:
    """Connect for calls of one method, with somebody's key. Raises CodebankError where nobody answers."""
    metadata = (("authorization", f"Bearer {key}"), ("grpc-timeout", f"{_CALL_SECONDS}S"))
    host, _, port = address.rpartition(":")
    make = partial(Connection, address, path, metadata, take, fail)
    try:
        _, connection = await asyncio.get_running_loop().create_connection(make, host, int(port))
    except OSError as error:
        raise CodebankError(Code.UNAVAILABLE, f"nobody answers at {address}: {error}") from None
    return connection


@dataclass
class _Load:
    """What loads have in common: their connections, and how they end."""

    target: Target
    path: str
    _connections: list[Connection] = field(default_factory=list)
    _taken: list[int] = field(default_factory=list)

    async def _open(self, take: Callable[[int, int, bytes | None], None]) -> None:
        """Open the connections; `take` gets the number of the one, the call and the answer."""
        self._requests = authorizations(self.target)
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        address, key = self.target.address, self.target.merchant_key
        for number in range(self.target.connections):
            connection = await connect(address, self.path, key, partial(take, number), self._fail)
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
