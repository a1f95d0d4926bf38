"""Many at once: the limit holds to the cent, nobody disturbs another, and nothing grows without end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import grpc
import pytest

from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.door.requests import RequestReader
from codebank.bank.executor import Executor
from codebank.bank.operation import Cancel
from codebank.bank.seed import seed_bank
from codebank.bank.store.reading import _LOCATE
from codebank.bank.test_cards import DEMO_MERCHANT
from codebank.bank.vault import Vault
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from tests.bank import (
    MERCHANT,
    calling,
    charge,
    charge_issued,
    committing,
    issue,
    published,
    read_books,
    require_sound_books,
)
from tests.conftest import TEST_MERCHANT_KEY, TEST_VAULT_KEY, BankServer, Databases, serving_bank

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio


async def charge_all(
    banks: list[BankAsyncStub], requests: list[pb.AuthorizeRequest], in_flight: int
) -> list[pb.AuthorizeResponse]:
    """Make all calls, so many at a time, by turns at each bank."""
    places = asyncio.Semaphore(in_flight)

    async def one(number: int, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        async with places:
            return await banks[number % len(banks)].Authorize(request, metadata=MERCHANT)

    return list(await asyncio.gather(*(one(number, request) for number, request in enumerate(requests))))


@pytest.mark.parametrize(("bank_count", "bank_processes"), [(1, 1), (2, 1), (1, 2)])
async def test_trap_b01_two_thousand_charges_of_one_real_on_a_limit_of_a_hundred_approve_exactly_a_hundred(
    bank_count: int, settings: Settings, bank_server: BankServer, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 10_000)
    requests = [charge_issued(f"k{number}", issued, 100) for number in range(2_000)]
    async with contextlib.AsyncExitStack() as stack:
        banks = [bank]
        if bank_count == 2:
            second = await stack.enter_async_context(serving_bank(settings))
            banks.append(await stack.enter_async_context(calling(second.address)))

        answers = await charge_all(banks, requests, in_flight=256)

    codes = Counter(answer.payment.decline_code for answer in answers)
    assert codes == {0: 100, pb.DECLINE_CODE_LIMIT_EXCEEDED: 1_900}
    account = issued.card.account_id
    row = await books.fetchrow("select used_minor, limit_minor, sequence from account where account_id = $1", account)
    assert row is not None
    assert tuple(row) == (10_000, 10_000, 2_002)  # opened, issued, then one for each charge
    types = await books.fetch("select type, count(*) from outbox where account_id = $1 group by type", account)
    assert {row["type"]: row["count"] for row in types} == {
        "codebank.account.opened": 1,
        "codebank.card.issued": 1,
        "codebank.payment.approved": 100,
        "codebank.payment.declined": 1_900,
    }
    assert await books.fetchval("select sum(amount_minor) from entry where account_id = $1", account) == 10_000
    await require_sound_books(books)


@pytest.mark.parametrize("bank_processes", [1, 2])
async def test_charges_of_many_accounts_by_two_banks_never_wait_in_a_circle(
    settings: Settings, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    cards = [await issue(bank, 100_000, f"issue-{number}") for number in range(12)]
    requests = [charge_issued(f"k{n}", cards[n * 7 % 12], 1) for n in range(600)]
    requests += [charge(f"stray{n}", 1, published("invalid_number")) for n in range(100)]
    messages = [pb.AuthorizeStreamRequest(requests=requests[start : start + 50]) for start in range(0, 700, 50)]

    async def send(stub: BankAsyncStub, part: list[pb.AuthorizeStreamRequest]) -> list[pb.AuthorizeResult]:
        return [
            result async for answer in stub.AuthorizeStream(iter(part), metadata=MERCHANT) for result in answer.results
        ]

    async with serving_bank(settings) as second, calling(second.address) as other:
        found = await asyncio.gather(send(bank, messages[::2]), send(other, messages[1::2][::-1]))

    results = [result for part in found for result in part]
    assert {result.WhichOneof("outcome") for result in results} == {"response"}
    assert Counter(result.response.payment.status for result in results) == {
        pb.PAYMENT_STATUS_APPROVED: 600,
        pb.PAYMENT_STATUS_DECLINED: 100,
    }
    assert (await read_books(books)).used_minor == 600
    await require_sound_books(books)


@pytest.mark.parametrize("bank_processes", [1, 2])
async def test_trap_b08_fifty_that_give_up_while_their_batch_runs_disturb_nobody(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000_000)
    stop = asyncio.Event()
    others: list[pb.AuthorizeResponse] = []

    async def load(name: int) -> None:
        number = 0
        while not stop.is_set():
            others.append(await bank.Authorize(charge_issued(f"other-{name}-{number}", issued, 1), metadata=MERCHANT))
            number += 1

    async with asyncio.timeout(30):
        loads = [asyncio.create_task(load(name)) for name in range(16)]
        answered_before_giving_up = 0
        for number in range(50):
            call = bank.Authorize(charge_issued(f"gone-{number}", issued, 1), metadata=MERCHANT)
            seen = len(others)
            while len(others) < seen + number % 5:  # gives up at another moment each time
                await asyncio.sleep(0)
            answered_before_giving_up += not call.cancel()
        seen = len(others)
        while len(others) < seen + 32:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*loads)

    known = 0
    for number in range(50):
        with contextlib.suppress(grpc.aio.AioRpcError):
            asked = pb.GetPaymentRequest(idempotency_key=f"gone-{number}")
            known += (await bank.GetPayment(asked, metadata=MERCHANT)).payment.status == pb.PAYMENT_STATUS_APPROVED
    assert {answer.payment.status for answer in others} == {pb.PAYMENT_STATUS_APPROVED}
    assert known >= answered_before_giving_up
    assert (await read_books(books)).used_minor == len(others) + known
    await require_sound_books(books)


async def test_trap_b08_one_that_gives_up_in_the_middle_of_its_commit_is_told_by_its_key(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    async with committing(books, lambda: bank.Authorize(charge_issued("gone", issued), metadata=MERCHANT)) as gone:
        gone.cancel()
        other = bank.Authorize(charge("other"), metadata=MERCHANT)
    answer = await other

    found = await bank.GetPayment(pb.GetPaymentRequest(idempotency_key="gone"), metadata=MERCHANT)
    assert answer.payment.status == found.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert (await read_books(books)).used_minor == 200


@pytest.mark.parametrize("bank_processes", [1, 2])
async def test_trap_b14_every_answer_under_load_is_whole_and_is_what_was_committed(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    requests = [charge(f"k{number}", number + 1) for number in range(500)]

    answers = await charge_all([bank], requests, in_flight=128)

    stored = {
        row["idempotency_key"]: (str(row["payment_id"]), row["amount_minor"])
        for row in await books.fetch("select idempotency_key, payment_id, amount_minor from payment")
    }
    assert {
        answer.payment.idempotency_key: (answer.payment.payment_id, answer.payment.amount.amount_minor)
        for answer in answers
    } == stored
    assert len(stored) == 500
    assert [answer.payment.amount.amount_minor for answer in answers] == list(range(1, 501))


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(
    databases: Databases, settings: Settings, bank_server: BankServer, books: asyncpg.Connection
) -> None:
    object.__setattr__(settings, "queue_size_max", 3)
    async with serving_bank(settings) as server, calling(server.address) as bank:
        issued = await issue(bank, 1_000)
        async with committing(books, lambda: bank.Authorize(charge_issued("held", issued), metadata=MERCHANT)) as held:
            waiting = [bank.Authorize(charge(f"k{number}"), metadata=MERCHANT) for number in range(4)]
            done, pending = await asyncio.wait(
                [asyncio.ensure_future(wait_for(call)) for call in waiting], return_when=asyncio.FIRST_COMPLETED
            )
        errors = [task.exception() for task in done]
        answers = [(await held), *[await task for task in pending]]

    assert len(errors) == 1
    assert isinstance(errors[0], grpc.aio.AioRpcError)
    assert errors[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {answer.payment.status for answer in answers} == {pb.PAYMENT_STATUS_APPROVED}
    assert (await read_books(books)).payments == 4


async def wait_for(
    call: grpc.aio.UnaryUnaryCall[pb.AuthorizeRequest, pb.AuthorizeResponse],
) -> pb.AuthorizeResponse:
    return await call


async def test_trap_b11_a_card_is_found_by_an_index(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    await books.execute(
        "insert into card (account_id, card_id, token, fingerprint, number_sealed, masked, brand, expiry_month,"
        " expiry_year, created_at) select (select account_id from account limit 1), gen_random_uuid(), 'tok' || n,"
        " sha256(n::text::bytea), '', '', 'visa', 1, 2030, now() from generate_series(1, 20000) n"
    )
    await books.execute("analyze card")

    plan = "\n".join(row[0] for row in await books.fetch(f"explain {_LOCATE}", [bytes(32)], ["tok1"], [UUID(int=1)]))

    assert "card_fingerprint_key" in plan
    assert "card_token_key" in plan
    assert "card_by_id" in plan
    assert "Seq Scan" not in plan


async def test_trap_b12_prepared_statements_and_connections_come_to_a_plateau(
    databases: Databases, books: asyncpg.Connection
) -> None:
    vault, pool = Vault(TEST_VAULT_KEY), await open_pool(databases.dsn("bank"), min_size=1, max_size=1)
    await seed_bank(books, vault, TEST_MERCHANT_KEY)
    reader, executor = RequestReader(vault, ForcedBehaviour(True)), Executor(pool, Telemetry(METRICS))
    counts = []

    for turn in range(4):
        for number in range(50):
            key = f"k{turn}-{number}"
            # Batches of every size from one to seven: no statement may depend on how many there are.
            batch = [reader.authorize(charge(f"{key}-{place}"), DEMO_MERCHANT) for place in range(1 + number % 7)]
            await executor.carry_out(batch)
            await executor.carry_out([Cancel(merchant_id=DEMO_MERCHANT, target=f"{key}-0")])
        counts.append(await pool.fetchval("select count(*) from pg_prepared_statements"))
    await pool.close()

    assert counts[0] == counts[1] == counts[2] == counts[3]
    assert counts[0] < 30
    await require_sound_books(books)
