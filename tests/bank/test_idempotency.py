"""One key, one payment, one answer: at once, again, with another request, after a restart, and cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import grpc
import pytest

from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.door.requests import RequestReader
from codebank.bank.test_cards import DEMO_MERCHANT
from codebank.bank.vault import Vault
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
    reason_of,
    refusal,
    require_sound_books,
)
from tests.conftest import TEST_VAULT_KEY, BankServer, seed, serving_bank

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio


def cancel(bank: BankAsyncStub, key: str) -> grpc.aio.UnaryUnaryCall[pb.CancelRequest, pb.CancelResponse]:
    return bank.Cancel(pb.CancelRequest(idempotency_key=key), metadata=MERCHANT)


@pytest.mark.parametrize("bank_processes", [1, 2])
async def test_trap_a19_the_same_key_fifty_times_at_once_is_one_payment_and_one_answer(
    settings: Settings, bank_server: BankServer, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    async with serving_bank(settings) as second, calling(second.address) as other:
        banks = [bank, other]
        calls = [banks[number % 2].Authorize(charge("k", 700), metadata=MERCHANT) for number in range(50)]
        answers = [await call for call in calls]

    after = await read_books(books)
    assert len({answer.payment.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert (after.payments - before.payments, after.entries - before.entries, after.keys - before.keys) == (1, 1, 1)
    assert (after.events - before.events, after.used_minor - before.used_minor) == (1, 700)
    await require_sound_books(books)


async def test_the_same_key_many_times_in_one_message_is_one_payment(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    message = pb.AuthorizeStreamRequest(requests=[charge("k", 700)] * 20 + [charge("k", 701)])

    answers = [answer async for answer in bank.AuthorizeStream(iter([message]), metadata=MERCHANT)]

    results = answers[0].results
    assert len({result.response.payment.payment_id for result in results[:20]}) == 1
    assert [result.response.replayed for result in results[:20]] == [False] + [True] * 19
    assert results[20].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]
    assert (await read_books(books)).used_minor == 700


async def test_a_decline_is_given_again_too(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    request = charge("k", card=published("limit_exceeded"))

    first = await bank.Authorize(request, metadata=MERCHANT)
    again = await bank.Authorize(request, metadata=MERCHANT)

    assert again.replayed
    assert again.payment == first.payment
    assert (await read_books(books)).payments == 1


OTHERS: dict[str, Any] = {
    "amount": lambda request: request.amount.MergeFrom(pb.Money(amount_minor=101)),
    "currency": lambda request: request.amount.MergeFrom(pb.Money(currency="USD")),
    "description": lambda request: request.MergeFrom(pb.AuthorizeRequest(description="tea")),
    "parcelas": lambda request: request.MergeFrom(pb.AuthorizeRequest(parcelas=2)),
    "number": lambda request: request.card_data.MergeFrom(pb.CardData(number=published("card_lost").number)),
    "expiry": lambda request: request.card_data.MergeFrom(pb.CardData(expiry_month=11)),
    "token": lambda request: request.MergeFrom(pb.AuthorizeRequest(card_token="tok")),
}


@pytest.mark.parametrize("changed", sorted(OTHERS))
async def test_trap_a18_the_same_key_with_another_request_is_refused_and_nothing_moves(
    changed: str, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    await bank.Authorize(charge("k"), metadata=MERCHANT)
    before = await read_books(books)
    other = charge("k")
    OTHERS[changed](other)

    error = await refusal(bank.Authorize(other, metadata=MERCHANT))

    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_REUSED")
    assert "used for another request" in str(error.details())
    assert await read_books(books) == before


def test_no_two_different_requests_have_one_hash() -> None:
    """Requests made so that their parts, put side by side, read the same."""
    reader = RequestReader(Vault(TEST_VAULT_KEY), ForcedBehaviour(True))

    def hash_of(request: pb.AuthorizeRequest) -> bytes:
        key = reader.authorize(request, DEMO_MERCHANT).key
        assert key is not None
        return key.request_hash

    def of_token(token: str, amount_minor: int, description: str) -> bytes:
        request = charge("k", amount_minor)
        request.card_token, request.description = token, description
        return hash_of(request)

    card = charge("k").card_data
    hashes = [
        of_token("tok", 100, "5|BRL|1|d"),
        of_token("tok|100|BRL|1", 5, "d"),
        of_token("token 'tok'", 100, "5|BRL|1|d"),
        of_token(f"{card.number}|{card.expiry_year}-{card.expiry_month}", 100, "coffee"),
        hash_of(charge("k")),
    ]

    assert len(set(hashes)) == len(hashes)


async def test_no_parcelas_and_one_parcela_are_the_same_request(bank: BankAsyncStub) -> None:
    one, none = charge("k"), charge("k")
    none.parcelas = 0

    await bank.Authorize(one, metadata=MERCHANT)

    assert (await bank.Authorize(none, metadata=MERCHANT)).replayed


async def test_trap_a20_a15_after_a_restart_the_first_answer_is_still_given(
    settings: Settings, books: asyncpg.Connection
) -> None:
    await seed(settings)
    async with serving_bank(settings) as server, calling(server.address) as bank:
        first = await bank.Authorize(charge("k"), metadata=MERCHANT)
        declined = await bank.Authorize(charge("d", card=published("card_lost")), metadata=MERCHANT)
        await cancel(bank, "tombstone")
    before = await read_books(books)

    async with serving_bank(settings) as server, calling(server.address) as bank:
        again = await bank.Authorize(charge("k"), metadata=MERCHANT)
        declined_again = await bank.Authorize(charge("d", card=published("card_lost")), metadata=MERCHANT)
        closed = await bank.Authorize(charge("tombstone"), metadata=MERCHANT)

    assert (again.replayed, again.payment) == (True, first.payment)
    assert (declined_again.replayed, declined_again.payment) == (True, declined.payment)
    assert closed.payment.decline_code == pb.DECLINE_CODE_CANCELLED_KEY
    assert await read_books(books) == before


async def test_a_cancelled_key_that_nobody_used_is_never_charged(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)

    answer = await cancel(bank, "k")
    charged = await bank.Authorize(charge("k"), metadata=MERCHANT)

    after = await read_books(books)
    assert (answer.outcome, answer.HasField("payment")) == (pb.CancelResponse.OUTCOME_KEY_CLOSED, False)
    assert charged.payment.status == pb.PAYMENT_STATUS_DECLINED
    assert charged.payment.decline_code == pb.DECLINE_CODE_CANCELLED_KEY
    assert charged.payment.payment_id == ""
    assert (after.payments, after.events, after.used_minor) == (before.payments, before.events, before.used_minor)
    assert (await cancel(bank, "k")).outcome == pb.CancelResponse.OUTCOME_KEY_CLOSED


async def test_cancelling_a_charge_gives_it_back_once_even_twenty_times_at_once(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    await bank.Authorize(charge("other", 50), metadata=MERCHANT)
    await bank.Authorize(charge("k", 700), metadata=MERCHANT)

    answers = [await call for call in [cancel(bank, "k") for _ in range(20)]]

    assert {answer.outcome for answer in answers} == {pb.CancelResponse.OUTCOME_REFUNDED}
    assert {answer.payment.refunded.amount_minor for answer in answers} == {700}
    assert {answer.payment.status for answer in answers} == {pb.PAYMENT_STATUS_REFUNDED}
    assert (await read_books(books)).used_minor == 50
    assert (await read_books(books)).entries == 3
    await require_sound_books(books)


async def test_a_charge_that_was_given_back_is_answered_as_given_back_and_not_charged_again(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    await bank.Authorize(charge("k", 700), metadata=MERCHANT)
    await cancel(bank, "k")

    again = await bank.Authorize(charge("k", 700), metadata=MERCHANT)

    assert (again.replayed, again.payment.status) == (True, pb.PAYMENT_STATUS_REFUNDED)
    assert (await read_books(books)).used_minor == 0


async def test_cancelling_a_decline_charges_and_gives_back_nothing(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    await bank.Authorize(charge("k", card=published("limit_exceeded")), metadata=MERCHANT)
    before = await read_books(books)

    answer = await cancel(bank, "k")

    assert answer.outcome == pb.CancelResponse.OUTCOME_NOTHING_CHARGED
    assert answer.payment.status == pb.PAYMENT_STATUS_DECLINED
    assert await read_books(books) == before


async def test_a_cancel_that_races_its_charge_leaves_nothing_charged(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    calls: list[Any] = []
    for number in range(60):
        pair = [bank.Authorize(charge(f"k{number}", 10), metadata=MERCHANT), cancel(bank, f"k{number}")]
        calls += pair
    answers = [await call for call in calls]

    outcomes = {answer.outcome for answer in answers[1::2]}
    assert outcomes <= {pb.CancelResponse.OUTCOME_KEY_CLOSED, pb.CancelResponse.OUTCOME_REFUNDED}
    assert (await read_books(books)).used_minor == 0
    await require_sound_books(books)


async def test_a_cancel_that_comes_before_its_charge_is_carried_out_closes_the_key(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    async with books.transaction():
        await books.execute("select from account where account_id = $1 for update", issued.card.account_id)
        charged = bank.Authorize(charge_issued("k", issued), metadata=MERCHANT)
        cancelled = await cancel(bank, "k")  # the charge is set aside, the key not taken yet
    answer = await charged

    assert cancelled.outcome == pb.CancelResponse.OUTCOME_KEY_CLOSED
    assert answer.payment.decline_code == pb.DECLINE_CODE_CANCELLED_KEY
    assert (await read_books(books)).used_minor == 0


async def test_a_cancel_at_another_bank_waits_for_the_charge_of_its_key_that_is_under_way(
    settings: Settings, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    async with serving_bank(settings) as server, calling(server.address) as other:
        async with committing(books, lambda: bank.Authorize(charge_issued("k", issued), metadata=MERCHANT)) as charged:
            cancelling = asyncio.ensure_future(cancel(other, "k"))
            await asyncio.wait([cancelling], timeout=0.05)
        answer, cancelled = await charged, await cancelling

    assert answer.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert cancelled.outcome == pb.CancelResponse.OUTCOME_REFUNDED
    assert (await read_books(books)).used_minor == 0
    await require_sound_books(books)


async def test_trap_b02_payment_balance_entry_key_and_event_are_one_commit(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    await bank.Authorize(charge("before"), metadata=MERCHANT)
    before = await read_books(books)
    # The last thing that is written fails: nothing of the rest may stay.
    await books.execute("alter table outbox add constraint refuses check (sequence < 0) not valid")

    error = await refusal(bank.Authorize(charge("k"), metadata=MERCHANT))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "refuses" not in str(error.details())
    assert await read_books(books) == before

    await books.execute("alter table outbox drop constraint refuses")
    again = await bank.Authorize(charge("k"), metadata=MERCHANT)
    row = await books.fetchrow(
        "select p.xmin as payment, e.xmin as entry, k.xmin as key, o.xmin as event, a.xmin as account from payment p"
        " join entry e using (account_id, payment_id) join idempotency_key k using (account_id, payment_id)"
        " join account a using (account_id) join outbox o on (o.account_id, o.sequence) = (a.account_id, a.sequence)"
        " where p.idempotency_key = 'k'"
    )
    assert row is not None
    assert not again.replayed
    assert len(set(row.values())) == 1
    await require_sound_books(books)


async def test_a_wrong_request_takes_no_key(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    before = await read_books(books)
    await refusal(bank.Authorize(charge("k", 0), metadata=MERCHANT))

    assert await read_books(books) == before
    assert not (await bank.Authorize(charge("k"), metadata=MERCHANT)).replayed


async def test_a_connection_that_is_lost_in_the_commit_is_answered_by_the_key(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    async with committing(books, lambda: bank.Authorize(charge_issued("k", issued), metadata=MERCHANT)) as held:
        await books.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and wait_event = 'PgSleep'"
        )
        async with asyncio.timeout(5):
            error = await refusal(held)
    again = await bank.Authorize(charge_issued("k", issued), metadata=MERCHANT)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert (again.replayed, again.payment.status) == (False, pb.PAYMENT_STATUS_APPROVED)
    assert (await read_books(books)).used_minor == 100
    await require_sound_books(books)
