"""The bank's door over real gRPC: every call, who may make it, and what it answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from codebank.bank.batch import Batcher, Ended
from codebank.bank.door.api import Bank
from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.executor import Executor
from codebank.bank.operation import Operation
from codebank.bank.store.merchants import add_merchant
from codebank.bank.test_cards import DEMO_ACCOUNT, TEST_CARDS, Behaviour, TestCard
from codebank.bank.vault import Vault
from codebank.errors import CodebankError
from codebank.roles import METRICS
from codebank.runtime.grpc.server import build_server
from codebank.runtime.postgres.pool import connect, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2
from codebank.v1 import bank_pb2 as pb
from codebank.wire import utc_now
from tests.bank import (
    APPROVED,
    MERCHANT,
    OPERATOR,
    calling,
    charge,
    charge_issued,
    committing,
    issue,
    published,
    read_books,
    reason_of,
    refusal,
    require_sound_books,
    wrong_fields,
)
from tests.conftest import TEST_VAULT_KEY, BankServer, Databases, seed, serving_bank, settings_for

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio
PLAIN = [card for card in TEST_CARDS if card.behaviour is Behaviour.PLAIN]
OTHER_KEY = "another-merchants-key"
OTHER_MERCHANT = (("authorization", f"Bearer {OTHER_KEY}"),)


async def add_other_merchant(books: asyncpg.Connection) -> None:
    digest = hashlib.sha256(OTHER_KEY.encode()).digest()
    await add_merchant(books, UUID(int=77), "Other", "5311", digest, utc_now())


async def test_an_approved_payment_tells_everything(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    answer = await bank.Authorize(charge("k", 1_050), metadata=MERCHANT)

    payment = answer.payment
    assert not answer.replayed
    assert (payment.status, payment.decline_code, payment.advice) == (pb.PAYMENT_STATUS_APPROVED, 0, 0)
    assert (payment.response_code, payment.card_masked, payment.card_brand) == ("00", "•••• 0018", "visa")
    assert (payment.amount.amount_minor, payment.amount.currency, payment.refunded.amount_minor) == (1_050, "BRL", 0)
    assert (payment.idempotency_key, payment.description, payment.parcelas) == ("k", "coffee", 1)
    assert UUID(payment.payment_id).version == 7
    assert payment.created_at == payment.updated_at
    await require_sound_books(books)


@pytest.mark.parametrize("card", PLAIN, ids=lambda card: f"{card.outcome}-{card.number[-4:]}")
async def test_every_published_card_brings_about_its_outcome(card: TestCard, bank: BankAsyncStub) -> None:
    payment = (await bank.Authorize(charge("k", card=card), metadata=MERCHANT)).payment

    if card.outcome == "approved":
        assert payment.status == pb.PAYMENT_STATUS_APPROVED
    else:
        assert payment.status == pb.PAYMENT_STATUS_DECLINED
        assert pb.DeclineCode.Name(payment.decline_code) == f"DECLINE_CODE_{card.outcome.upper()}"
        assert payment.advice != pb.ADVICE_UNSPECIFIED


async def test_trap_b07_every_failure_has_a_reason_of_its_own(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    declined = [card for card in PLAIN if card.outcome != "approved"]

    answers = [(await bank.Authorize(charge(card.outcome, card=card), metadata=MERCHANT)).payment for card in declined]

    assert len({payment.decline_code for payment in answers}) == len(declined) == 14
    assert (await read_books(books)).entries == 0
    await require_sound_books(books)


async def test_test_cards_force_nothing_where_they_are_off(databases: Databases, bank_server: BankServer) -> None:
    forced = published("suspected_fraud")
    async with (
        serving_bank(settings_for(databases, test_cards=False)) as server,
        calling(server.address) as bank,
    ):
        payment = (await bank.Authorize(charge("k", card=forced), metadata=MERCHANT)).payment

    assert payment.decline_code == pb.DECLINE_CODE_WRONG_CVV  # its published CVV is nothing by itself


async def test_a_token_charges_the_card_that_it_names(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 1_000)
    request = charge("k", 400)
    request.card_token = issued.card.token

    payment = (await bank.Authorize(request, metadata=MERCHANT)).payment

    assert payment.status == pb.PAYMENT_STATUS_APPROVED
    assert payment.card_masked == issued.card.masked
    assert await books.fetchval("select used_minor from account where account_id = $1", issued.card.account_id) == 400


async def test_a_token_that_names_no_card_is_declined(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    request = charge("k")
    request.card_token = "tok_nobody"

    payment = (await bank.Authorize(request, metadata=MERCHANT)).payment

    assert payment.decline_code == pb.DECLINE_CODE_INVALID_NUMBER
    await require_sound_books(books)


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer nobodys"),), (("authorization", "Basic x"),)])
async def test_a_merchants_call_needs_a_merchants_key(
    metadata: tuple[tuple[str, str], ...], bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)

    async def stream() -> None:
        async for _ in bank.AuthorizeStream(iter([pb.AuthorizeStreamRequest()]), metadata=metadata):
            pass

    for call in (
        bank.Authorize(charge("k"), metadata=metadata),
        bank.Cancel(pb.CancelRequest(idempotency_key="k"), metadata=metadata),
        bank.GetPayment(pb.GetPaymentRequest(idempotency_key="k"), metadata=metadata),
        stream(),
    ):
        assert (await refusal(call)).code() is grpc.StatusCode.UNAUTHENTICATED

    assert await read_books(books) == before


@pytest.mark.parametrize(
    ("metadata", "status"),
    [((), grpc.StatusCode.UNAUTHENTICATED), (MERCHANT, grpc.StatusCode.PERMISSION_DENIED)],
)
async def test_an_operators_call_needs_the_operators_key(
    metadata: tuple[tuple[str, str], ...],
    status: grpc.StatusCode,
    bank: BankAsyncStub,
    books: asyncpg.Connection,
) -> None:
    card_id = str(await books.fetchval("select card_id from card limit 1"))
    before, cards = await read_books(books), await books.fetch("select * from card order by card_id")

    for call in (
        bank.IssueCard(pb.IssueCardRequest(account_id=str(DEMO_ACCOUNT), idempotency_key="k"), metadata=metadata),
        bank.GetCard(pb.GetCardRequest(card_id=card_id), metadata=metadata),
        bank.BlockCard(pb.BlockCardRequest(card_id=card_id, reason=pb.BlockCardRequest.REASON_LOST), metadata=metadata),
        bank.UnblockCard(pb.UnblockCardRequest(card_id=card_id), metadata=metadata),
    ):
        assert (await refusal(call)).code() is status

    assert await read_books(books) == before
    assert await books.fetch("select * from card order by card_id") == cards


async def test_no_operator_is_let_in_where_no_operators_key_is_set(
    databases: Databases, bank_server: BankServer
) -> None:
    empty = (("authorization", "Bearer "),)
    async with serving_bank(settings_for(databases, operator_key="")) as server, calling(server.address) as bank:
        request = pb.GetCardRequest(card_id=str(UUID(int=1)))

        for metadata in ((), empty, OPERATOR):
            status = (await refusal(bank.GetCard(request, metadata=metadata))).code()
            assert status in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


async def test_a_payment_is_read_by_its_id_and_by_its_key(bank: BankAsyncStub) -> None:
    made = (await bank.Authorize(charge("k"), metadata=MERCHANT)).payment

    by_id = await bank.GetPayment(pb.GetPaymentRequest(payment_id=made.payment_id), metadata=MERCHANT)
    by_key = await bank.GetPayment(pb.GetPaymentRequest(idempotency_key="k"), metadata=MERCHANT)

    assert by_id.payment == by_key.payment == made


async def test_a_merchant_sees_no_payment_of_another(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    await add_other_merchant(books)
    made = (await bank.Authorize(charge("k"), metadata=MERCHANT)).payment

    for request in (pb.GetPaymentRequest(payment_id=made.payment_id), pb.GetPaymentRequest(idempotency_key="k")):
        error = await refusal(bank.GetPayment(request, metadata=OTHER_MERCHANT))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_the_keys_of_two_merchants_are_two_keys(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    await add_other_merchant(books)
    mine = (await bank.Authorize(charge("k", 100), metadata=MERCHANT)).payment

    others = (await bank.Authorize(charge("k", 250), metadata=OTHER_MERCHANT)).payment
    cancelled = await bank.Cancel(pb.CancelRequest(idempotency_key="k"), metadata=OTHER_MERCHANT)

    assert others.payment_id != mine.payment_id
    assert cancelled.payment.payment_id == others.payment_id
    still = await bank.GetPayment(pb.GetPaymentRequest(idempotency_key="k"), metadata=MERCHANT)
    assert still.payment.status == pb.PAYMENT_STATUS_APPROVED
    await require_sound_books(books)


async def test_a_stream_answers_every_item_by_its_key_and_a_bad_one_harms_none(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    bad = {f"m{message}-5" for message in range(3)}
    messages = []
    for message in range(3):
        requests = [charge(f"m{message}-{place}") for place in range(100)]
        requests[5].amount.amount_minor = -1
        messages.append(pb.AuthorizeStreamRequest(requests=requests))

    answers = [answer async for answer in bank.AuthorizeStream(iter(messages), metadata=MERCHANT)]

    results = {result.idempotency_key: result for answer in answers for result in answer.results}
    assert len(answers) == 3
    assert len(results) == 300
    assert {key for key, result in results.items() if result.WhichOneof("outcome") == "error"} == bad
    assert {result.error.code for key, result in results.items() if key in bad} == {3}  # INVALID_ARGUMENT
    assert (await read_books(books)).used_minor == 29_700
    await require_sound_books(books)


async def test_a_stream_whose_message_is_too_long_or_broken_says_why(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    too_many = pb.AuthorizeStreamRequest(requests=[charge(f"k{number}") for number in range(501)])

    async def send() -> None:
        async for _ in bank.AuthorizeStream(iter([too_many]), metadata=MERCHANT):
            pass

    async with asyncio.timeout(5):
        error = await refusal(send())

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert wrong_fields(error) == {"requests"}
    assert await read_books(books) == before


async def test_an_empty_message_of_a_stream_is_answered(bank: BankAsyncStub) -> None:
    answers = [a async for a in bank.AuthorizeStream(iter([pb.AuthorizeStreamRequest()]), metadata=MERCHANT)]

    assert [len(answer.results) for answer in answers] == [0]


async def test_a_bank_that_is_away_once_is_there_on_the_second_call(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    request = charge("k", card=published("unavailable_once"))

    error = await refusal(bank.Authorize(request, metadata=MERCHANT))
    again = await bank.Authorize(request, metadata=MERCHANT)

    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert again.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert (await read_books(books)).payments == 1


async def test_an_answer_that_never_comes_is_read_by_its_key(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    request = charge("k", card=published("timeout_after_commit"))

    error = await refusal(bank.Authorize(request, metadata=MERCHANT, timeout=0.5))
    again = await bank.Authorize(request, metadata=MERCHANT, timeout=5)

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert again.replayed
    assert again.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert (await read_books(books)).payments == 1


async def test_a_deadline_that_passes_before_the_batch_charges_nothing(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    before = await read_books(books)
    # What comes while a commit is under way waits for the lane.
    async with committing(books, lambda: bank.Authorize(charge_issued("first", issued), metadata=MERCHANT)) as first:
        error = await refusal(bank.Authorize(charge("late"), metadata=MERCHANT, timeout=0.2))
    answer = await first

    missing = await refusal(bank.GetPayment(pb.GetPaymentRequest(idempotency_key="late"), metadata=MERCHANT))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert missing.code() is grpc.StatusCode.NOT_FOUND
    assert answer.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert (await read_books(books)).payments == before.payments + 1


async def test_an_account_that_somebody_else_holds_fails_alone(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 1_000)
    async with books.transaction():
        await books.execute("select from account where account_id = $1 for update", issued.card.account_id)
        held = bank.Authorize(charge_issued("held", issued), metadata=MERCHANT)
        others = [bank.Authorize(charge(f"k{number}"), metadata=MERCHANT) for number in range(10)]
        answers = [await other for other in others]
        later = [await bank.Authorize(charge(f"later-{number}"), metadata=MERCHANT) for number in range(10)]
        assert not held.done()
        error = await refusal(held)
    again = await bank.Authorize(charge_issued("held", issued), metadata=MERCHANT)

    assert {answer.payment.status for answer in answers + later} == {pb.PAYMENT_STATUS_APPROVED}
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "lock" not in str(error.details())
    assert again.payment.status == pb.PAYMENT_STATUS_APPROVED
    await require_sound_books(books)


async def test_trap_b19_without_its_database_every_call_is_unavailable_and_may_be_repeated(
    settings: Settings, databases: Databases, bank: BankAsyncStub
) -> None:
    issued = await issue(bank, 100)
    card_id = issued.card.card_id
    await bank.Authorize(charge("k"), metadata=MERCHANT)
    keeper = await connect(databases.server.dsn("postgres", "postgres"))
    await keeper.execute("alter role bank connection limit 0")
    await keeper.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'bank'")
    try:
        errors = [
            await refusal(call())
            for call in (
                lambda: bank.Authorize(charge("new"), metadata=MERCHANT),
                lambda: bank.Authorize(charge("new"), metadata=(("authorization", "Bearer unseen"),)),
                lambda: bank.Cancel(pb.CancelRequest(idempotency_key="k"), metadata=MERCHANT),
                lambda: bank.GetPayment(pb.GetPaymentRequest(idempotency_key="k"), metadata=MERCHANT),
                lambda: bank.GetCard(pb.GetCardRequest(card_id=card_id), metadata=OPERATOR),
                lambda: issue(bank, 100, "issue-2"),
            )
        ]
    finally:
        await keeper.execute("alter role bank connection limit -1")
        await keeper.close()

    assert [error.code() for error in errors] == [grpc.StatusCode.UNAVAILABLE] * 6
    assert {error.details() for error in errors} == {
        "the bank cannot reach its database\nhint: repeat the request with the same idempotency key"
    }
    again = await bank.Authorize(charge("k"), metadata=MERCHANT)
    assert again.replayed


async def test_trap_b09_a_bank_without_its_key_does_not_start(databases: Databases) -> None:
    with pytest.raises(CodebankError, match="64 hexadecimal digits"):
        async with serving_bank(settings_for(databases, vault_key="")):
            pass


async def test_trap_b10_a_stopping_bank_answers_what_it_took(settings: Settings, books: asyncpg.Connection) -> None:
    await seed(settings)
    async with contextlib.AsyncExitStack() as clients:
        async with serving_bank(settings) as server:
            bank = await clients.enter_async_context(calling(server.address))
            # Calls that wait for a connection are sent in any order; on an open one, as they were made.
            await bank.Authorize(charge("first"), metadata=MERCHANT)
            slow = bank.Authorize(charge("slow", card=published("slow")), metadata=MERCHANT)
            others = [bank.Authorize(charge(f"k{number}"), metadata=MERCHANT) for number in range(50)]
            # One that is answered was sent last, so the bank has taken all of them.
            await bank.Authorize(charge("last"), metadata=MERCHANT)
        # The bank has stopped here; the slow one was not answered when it was asked to.
        answers = [await call for call in (slow, *others)]

    assert {answer.payment.status for answer in answers} == {pb.PAYMENT_STATUS_APPROVED}
    assert (await read_books(books)).payments == 53
    await require_sound_books(books)


async def test_the_bank_tells_its_health_of_itself_and_of_its_service(bank_server: BankServer) -> None:
    async with grpc.aio.insecure_channel(bank_server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answers = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", "codebank.v1.Bank")]

    assert {answer.status for answer in answers} == {health_pb2.HealthCheckResponse.SERVING}


async def test_the_bank_tells_what_it_speaks(bank_server: BankServer) -> None:
    async with grpc.aio.insecure_channel(bank_server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([request]))]

    names = {service.name for service in answers[0].list_services_response.service}
    assert "codebank.v1.Bank" in names


async def test_calls_and_payments_are_counted(bank_server: BankServer, bank: BankAsyncStub) -> None:
    await bank.Authorize(charge("k"), metadata=MERCHANT)
    await bank.Authorize(charge("k"), metadata=MERCHANT)
    await refusal(bank.Authorize(charge("", card=APPROVED), metadata=MERCHANT))

    value = bank_server.telemetry.registry.get_sample_value
    assert value("codebank_payments_total", {"outcome": "approved", "code": ""}) == 1
    assert value("codebank_rpc_total", {"method": "Authorize", "status": "OK"}) == 2
    assert value("codebank_rpc_total", {"method": "Authorize", "status": "INVALID_ARGUMENT"}) == 1


async def test_trap_c02_a_stream_ends_by_an_error_that_nobody_expected_and_its_caller_hears_of_it(
    bank_server: BankServer, databases: Databases
) -> None:
    class Broken(Batcher):
        async def submit(self, operations: Sequence[Operation], timeout_seconds: float | None) -> list[Ended]:
            raise ZeroDivisionError

    async with contextlib.AsyncExitStack() as stack:
        pool = await open_pool(databases.dsn("bank"))
        stack.push_async_callback(pool.close)
        telemetry = Telemetry(METRICS)
        broken = Broken(Executor(pool, telemetry), telemetry, 8, 8)
        bank = Bank(pool, Vault(TEST_VAULT_KEY), broken, telemetry, "", ForcedBehaviour(True))
        service = bank_pb2.DESCRIPTOR.services_by_name["Bank"]
        server, _ = build_server(telemetry, service, bank)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        stub = await stack.enter_async_context(calling(f"127.0.0.1:{port}"))
        stream = stub.AuthorizeStream(iter([pb.AuthorizeStreamRequest(requests=[charge("k")])]), metadata=MERCHANT)

        async with asyncio.timeout(10):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stream:
                    pass

    assert caught.value.code() is grpc.StatusCode.INTERNAL
