"""The one executor: kinds mix, what moved is decided anew, what is held is set aside, keys give first answers again."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import grpc
import pytest

from codebank.bank.deciding import Deciding
from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.door.requests import RequestReader
from codebank.bank.drawing import draw, issuing
from codebank.bank.executor import Executor, Held
from codebank.bank.known import read_known
from codebank.bank.memory import Memory
from codebank.bank.operation import (
    Authorize,
    BlockCard,
    Cancel,
    CancelAnswer,
    CardAnswer,
    Key,
    OpenAccount,
    PaymentAnswer,
    UnblockCard,
)
from codebank.bank.seed import seed_bank
from codebank.bank.store.writing import Moved, write
from codebank.bank.test_cards import CLOSED_ACCOUNT, DEMO_ACCOUNT, DEMO_MERCHANT
from codebank.bank.vault import Vault
from codebank.errors import Code, CodebankError
from codebank.events import CardStatus, PaymentStatus
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id, utc_now
from tests.bank import (
    MERCHANT,
    OPERATOR,
    charge,
    charge_issued,
    issue,
    read_books,
    reason_of,
    refusal,
    require_sound_books,
)
from tests.conftest import TEST_MERCHANT_KEY, TEST_VAULT_KEY, Databases

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio

VAULT = Vault(TEST_VAULT_KEY)
READER = RequestReader(VAULT, ForcedBehaviour(True))


@pytest.fixture
async def books(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("bank")
    await seed_bank(connection, VAULT, TEST_MERCHANT_KEY)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(databases: Databases, books: asyncpg.Connection) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(databases.dsn("bank"), server_settings={"lock_timeout": "100ms"})
    yield opened
    await opened.close()


@pytest.fixture
def executor(pool: asyncpg.Pool) -> Executor:
    return Executor(pool, Telemetry(METRICS))


def charging(name: str, amount_minor: int = 100) -> Authorize:
    return READER.authorize(charge(name, amount_minor), DEMO_MERCHANT)


async def test_kinds_mix_in_one_batch_and_each_sees_what_the_ones_before_it_changed(
    executor: Executor, books: asyncpg.Connection
) -> None:
    opens = OpenAccount(account_id=new_id(), holder_name="Rui", currency="BRL", limit_minor=1_000)
    plastic = draw(utc_now())
    card = issuing(VAULT, plastic, opens.account_id, opens=opens, key=Key(UUID(int=9), "issue", bytes(32)))
    card_id = card.card.card_id
    await executor.carry_out([card])
    mixed = [
        charging("a"),
        Cancel(merchant_id=DEMO_MERCHANT, target="a"),
        charging("a"),
        Cancel(merchant_id=DEMO_MERCHANT, target="never"),
        charging("never"),
        BlockCard(card_id=card_id, status=CardStatus.BLOCKED),
        UnblockCard(card_id=card_id),
        charging("b", 200),
        issuing(VAULT, draw(utc_now()), CLOSED_ACCOUNT),
    ]

    approved, cancelled, again, closed, refused, blocked, unblocked, other, no_card = await executor.carry_out(mixed)

    assert isinstance(approved, PaymentAnswer)
    assert (approved.payment.status, approved.replayed) == (PaymentStatus.APPROVED, False)
    assert isinstance(cancelled, CancelAnswer)
    assert (cancelled.outcome, cancelled.payment and cancelled.payment.version) == ("refunded", 2)
    assert isinstance(again, PaymentAnswer)
    assert (again.payment.status, again.replayed) == (PaymentStatus.REFUNDED, True)
    assert isinstance(closed, CancelAnswer)
    assert closed.outcome == "key_closed"
    assert isinstance(refused, PaymentAnswer)
    assert (refused.payment.decline_code, refused.is_stored) == ("cancelled_key", False)
    assert isinstance(blocked, CardAnswer)
    assert isinstance(unblocked, CardAnswer)
    assert [blocked.card.status, unblocked.card.status] == [CardStatus.BLOCKED, CardStatus.ACTIVE]
    assert isinstance(other, PaymentAnswer)
    assert other.payment.amount_minor == 200
    assert isinstance(no_card, CodebankError)
    assert no_card.code is Code.FAILED_PRECONDITION
    assert (await read_books(books)).used_minor == 200
    await require_sound_books(books)


async def test_two_banks_on_one_hot_account_lose_nothing_and_count_every_change(
    pool: asyncpg.Pool, books: asyncpg.Connection
) -> None:
    banks = [Executor(pool, Telemetry(METRICS)) for _ in range(2)]

    async def work(bank: Executor, name: str) -> None:
        for number in range(25):
            waiting = [charging(f"{name}-{number}-{place}", 10) for place in range(4)]
            while waiting:
                results = await bank.carry_out_held(waiting)
                waiting = [one for one, result in zip(waiting, results, strict=True) if isinstance(result, Held)]

    await asyncio.gather(*(work(bank, name) for bank, name in zip(banks, "ab", strict=True)))

    account = await books.fetchrow("select * from account where account_id = $1", DEMO_ACCOUNT)
    assert account is not None
    assert (await read_books(books)).payments == 200
    assert account["used_minor"] == 2_000
    await require_sound_books(books)


async def test_free_batches_of_two_banks_meet_and_none_is_lost(pool: asyncpg.Pool, books: asyncpg.Connection) -> None:
    banks = [Executor(pool, Telemetry(METRICS)) for _ in range(2)]

    async def work(bank: Executor, name: str) -> int:
        approved = 0
        for number in range(30):
            operation = charging(f"{name}-{number}", 10)
            (result,) = await bank.carry_out([operation])
            while isinstance(result, Held):
                (result,) = await bank.carry_out_held([operation])
            assert isinstance(result, PaymentAnswer)
            approved += result.payment.status == PaymentStatus.APPROVED
        return approved

    assert await asyncio.gather(*(work(bank, name) for bank, name in zip(banks, "ab", strict=True))) == [30, 30]
    assert (await read_books(books)).used_minor == 600
    await require_sound_books(books)


@pytest.mark.parametrize(
    "change",
    [
        "update account set limit_minor = 100 where account_id = '01900000-0000-7000-8000-000000000001'",
        "update merchant set status = 'closed'",
    ],
    ids=["account", "merchant"],
)
async def test_what_was_decided_on_something_that_moved_is_not_written(
    change: str, executor: Executor, pool: asyncpg.Pool, books: asyncpg.Connection
) -> None:
    before, operation = await read_books(books), charging("k", 50_000)
    async with pool.acquire() as connection:
        deciding = Deciding(await read_known(connection, Memory(), [operation]), utc_now(), new_id)
        answer = deciding.answer(operation)
        await books.execute(change)

        with pytest.raises(Moved):
            await write(connection, deciding.writes)
    (decided_anew,) = await executor.carry_out([operation])

    assert isinstance(answer, PaymentAnswer)
    assert isinstance(decided_anew, PaymentAnswer)
    assert [answer.payment.status, decided_anew.payment.status] == [PaymentStatus.APPROVED, PaymentStatus.DECLINED]
    assert (await read_books(books)).used_minor == before.used_minor == 0


@pytest.mark.parametrize("table", ["account", "merchant"])
async def test_whoever_changes_a_row_without_counting_is_counted(table: str, books: asyncpg.Connection) -> None:
    before = await books.fetchval(f"select sum(version)::int from {table}")

    changed = await books.execute(f"update {table} set status = 'closed' where status = 'open'")

    assert await books.fetchval(f"select sum(version)::int from {table}") == before + int(changed.split()[-1])


async def test_a_merchant_that_was_closed_is_noticed_by_the_next_charge(
    executor: Executor, books: asyncpg.Connection
) -> None:
    await executor.carry_out([charging("before")])
    await books.execute("update merchant set status = 'closed' where merchant_id = $1", DEMO_MERCHANT)

    (after,) = await executor.carry_out([charging("after")])

    assert isinstance(after, PaymentAnswer)
    assert after.payment.decline_code == "invalid_merchant"


async def test_a_key_is_its_merchants_whatever_it_signs_in_with(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    first = await bank.Authorize(charge("k"), metadata=MERCHANT)
    digest = hashlib.sha256(b"another key").digest()
    await books.execute("update merchant set api_key_hash = $1 where merchant_id = $2", digest, DEMO_MERCHANT)

    again = await bank.Authorize(charge("k"), metadata=(("authorization", "Bearer another key"),))

    assert (again.replayed, again.payment) == (True, first.payment)


async def test_an_issued_card_is_answered_as_it_was_first_without_its_number(bank: BankAsyncStub) -> None:
    first = await issue(bank, 1_000)
    await bank.Authorize(charge_issued("k", first), metadata=MERCHANT)
    block = pb.BlockCardRequest(card_id=first.card.card_id, reason=pb.BlockCardRequest.REASON_BLOCKED)
    await bank.BlockCard(block, metadata=OPERATOR)

    again = await issue(bank, 1_000)

    assert (again.card, again.replayed) == (first.card, True)
    assert (again.number, again.cvv) == ("", "")


async def test_the_same_order_key_with_another_body_is_refused(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    await issue(bank, 1_000)
    before = await read_books(books)

    error = await refusal(issue(bank, 2_000))

    assert (error.code(), reason_of(error)) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_REUSED")
    assert await read_books(books) == before


@pytest.mark.parametrize("account_id", [CLOSED_ACCOUNT, DEMO_MERCHANT], ids=["closed", "unmatched"])
async def test_no_card_is_issued_on_an_account_that_can_hold_none(
    account_id: UUID, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    before = await read_books(books)
    request = pb.IssueCardRequest(account_id=str(account_id), idempotency_key="k")

    error = await refusal(bank.IssueCard(request, metadata=OPERATOR))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert await read_books(books) == before


async def test_a_block_with_a_key_is_carried_out_once_and_answers_what_it_answered_first(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    reason = pb.BlockCardRequest.REASON_BLOCKED
    block = pb.BlockCardRequest(card_id=issued.card.card_id, reason=reason, idempotency_key="block-1")
    first = await bank.BlockCard(block, metadata=OPERATOR)
    unblock = pb.UnblockCardRequest(card_id=issued.card.card_id, idempotency_key="unblock-1")
    await bank.UnblockCard(unblock, metadata=OPERATOR)
    before = await read_books(books)

    again = await bank.BlockCard(block, metadata=OPERATOR)
    now = await bank.GetCard(pb.GetCardRequest(card_id=issued.card.card_id), metadata=OPERATOR)
    other = await refusal(bank.BlockCard(_lost(block), metadata=OPERATOR))

    assert again.card == first.card
    assert now.card.status == pb.CARD_STATUS_ACTIVE
    assert other.code() is grpc.StatusCode.ALREADY_EXISTS
    assert await read_books(books) == before


def _lost(request: pb.BlockCardRequest) -> pb.BlockCardRequest:
    changed = pb.BlockCardRequest()
    changed.CopyFrom(request)
    changed.reason = pb.BlockCardRequest.REASON_LOST
    return changed


async def test_a_key_of_one_kind_is_refused_for_another(bank: BankAsyncStub) -> None:
    issued = await issue(bank, 1_000, "one-key")
    block = pb.BlockCardRequest(
        card_id=issued.card.card_id, reason=pb.BlockCardRequest.REASON_LOST, idempotency_key="one-key"
    )

    error = await refusal(bank.BlockCard(block, metadata=OPERATOR))

    assert error.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_the_keys_of_a_log_are_those_of_the_table(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    """Whoever restores a bank can tell from its events which keys were taken, by what request, and cancelled since."""
    issued = await issue(bank, 1_000, "an order")
    await bank.Authorize(charge_issued("paid", issued), metadata=MERCHANT)
    await bank.Authorize(charge("too much", 99_999_999), metadata=MERCHANT)
    await bank.Cancel(pb.CancelRequest(idempotency_key="paid"), metadata=MERCHANT)

    told = {
        (row["caller"], row["key_hash"]): row["digest"]
        for row in await books.fetch(
            "select v->'cause'->>'caller_id' as caller, v->'cause'->>'key_hash' as key_hash,"
            " v->'cause'->>'digest' as digest from (select convert_from(value, 'utf8')::jsonb as v from outbox) o"
            " where v->'cause'->>'digest' > ''"
        )
    }
    kept = {
        (str(row["merchant_id"]), row["key_hash"]): row["digest"]
        for row in await books.fetch(
            "select merchant_id, encode(sha256(key::bytea), 'hex') as key_hash,"
            " hash_version || ':' || encode(request_hash, 'hex') as digest from idempotency_key"
        )
    }

    assert told == kept
    assert len(kept) == 3
