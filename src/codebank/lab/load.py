"""The load of `bench`, in a process of its own: callers that keep a number of calls in flight (closed loop)."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import grpc
import uvloop

from codebank.bank.deciding import Deciding, Known
from codebank.bank.operation import Authorize, Key
from codebank.bank.state import CardPlace
from codebank.bank.store.reading import read_accounts, read_at_once, read_merchants
from codebank.bank.store.writing import write
from codebank.bank.test_cards import DEMO_MERCHANT
from codebank.lab.benchserver import ECHO, ECHO_STREAM
from codebank.runtime.postgres.pool import connect
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id, utc_now

BATCH: Final = 100
_BANK: Final = "/codebank.v1.Bank/Authorize"
_BANK_STREAM: Final = "/codebank.v1.Bank/AuthorizeStream"
#: Messages of a stream under way at once.
_STREAM_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to load, and with which cards."""

    address: str
    merchant_key: str
    bank_dsn: str
    #: Number, CVV, expiry year and month.
    cards: Sequence[tuple[str, str, int, int]]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn reached."""

    items: int
    milliseconds: int
    #: Microseconds of single calls, sorted; empty where calls carry many items.
    call_microseconds: Sequence[int]

    @property
    def per_second(self) -> int:
        """Items in a second."""
        return self.items * 1000 // max(1, self.milliseconds)


def run_turn(target: Target, contender: str, in_flight: int, seconds: int) -> Turn:
    """Load one contender for a while. Called in the load's own process."""
    work = {"authorize": _unary, "echo": _unary, "stream": _stream, "echo stream": _stream, "sql": _sql}[contender]
    return uvloop.run(work(target, contender, in_flight, seconds))


def _requests(target: Target) -> Iterator[pb.AuthorizeRequest]:
    prefix = f"bench-{new_id().hex[-12:]}"
    cards = [
        pb.CardData(number=number, cvv=cvv, expiry_year=year, expiry_month=month)
        for number, cvv, year, month in target.cards
    ]

    def make(number: int) -> pb.AuthorizeRequest:
        return pb.AuthorizeRequest(
            card_data=cards[random.randrange(len(cards))],  # noqa: S311 (a load, not a secret)
            amount=pb.Money(amount_minor=100, currency="BRL"),
            description="Bench",
            idempotency_key=f"{prefix}-{number}",
        )

    return map(make, itertools.count())


async def _unary(target: Target, contender: str, in_flight: int, seconds: int) -> Turn:
    metadata = (("authorization", f"Bearer {target.merchant_key}"),)
    requests = _requests(target)
    taken: list[int] = []
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.unary_unary(
            _BANK if contender == "authorize" else ECHO,
            request_serializer=pb.AuthorizeRequest.SerializeToString,
            response_deserializer=pb.AuthorizeResponse.FromString,
        )
        await channel.channel_ready()
        began = time.perf_counter_ns()
        until = began + seconds * 10**9

        async def caller() -> None:
            while (at := time.perf_counter_ns()) < until:
                answer = await call(next(requests), metadata=metadata, timeout=30)
                assert answer.payment.status == pb.PAYMENT_STATUS_APPROVED
                taken.append((time.perf_counter_ns() - at) // 1000)

        await asyncio.gather(*(caller() for _ in range(in_flight)))
        elapsed = (time.perf_counter_ns() - began) // 10**6
    return Turn(len(taken), elapsed, sorted(taken))


async def _stream(target: Target, contender: str, in_flight: int, seconds: int) -> Turn:
    metadata = (("authorization", f"Bearer {target.merchant_key}"),)
    requests = _requests(target)
    places = asyncio.Semaphore(_STREAM_DEPTH)
    items = 0
    async with grpc.aio.insecure_channel(target.address) as channel:
        call = channel.stream_stream(
            _BANK_STREAM if contender == "stream" else ECHO_STREAM,
            request_serializer=pb.AuthorizeStreamRequest.SerializeToString,
            response_deserializer=pb.AuthorizeStreamResponse.FromString,
        )
        await channel.channel_ready()
        began = time.perf_counter_ns()
        until = began + seconds * 10**9

        async def messages() -> AsyncIterator[pb.AuthorizeStreamRequest]:
            while time.perf_counter_ns() < until:
                await places.acquire()
                yield pb.AuthorizeStreamRequest(requests=itertools.islice(requests, BATCH))

        async for answer in call(messages(), metadata=metadata):
            assert all(one.response.payment.status == pb.PAYMENT_STATUS_APPROVED for one in answer.results)
            items += len(answer.results)
            places.release()
        elapsed = (time.perf_counter_ns() - began) // 10**6
    return Turn(items, elapsed, ())


async def _sql(target: Target, _contender: str, _in_flight: int, seconds: int) -> Turn:
    """Write the same rows with the same statement, without gRPC, and decided before the clock starts."""
    connection: Any = await connect(target.bank_dsn, role="bench")
    rows = await connection.fetch("select card_id, account_id, token from card")
    places: dict[bytes | str | UUID, CardPlace] = {
        row["token"]: CardPlace(row["account_id"], row["card_id"]) for row in rows
    }
    tokens = [row["token"] for row in rows]
    merchants = await read_merchants(connection, [DEMO_MERCHANT])
    everything = [place.account_id for place in places.values()], [place.card_id for place in places.values()]
    accounts, cards = await read_accounts(connection, *everything)
    items = milliseconds = 0
    while milliseconds < seconds * 1000:
        # What Python decides and builds is left out of the time; what PostgreSQL is sent is the same.
        batch = [_charge(tokens[random.randrange(len(tokens))]) for _ in range(BATCH)]  # noqa: S311 (a load)
        deciding = Deciding(Known(places, merchants, accounts, cards), utc_now(), new_id)
        for operation in batch:
            deciding.answer(operation)
        touched = list(deciding.writes.accounts)
        names = [(operation.key.caller_id, operation.key.name) for operation in batch if operation.key]
        began = time.perf_counter_ns()
        await read_at_once(connection, touched, everything[1], names)
        await write(connection, deciding.writes)
        milliseconds += (time.perf_counter_ns() - began) // 10**6
        items += BATCH
    await connection.close()
    return Turn(items, milliseconds, ())


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
