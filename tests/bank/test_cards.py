"""The operator's hand: cards are issued once, blocked at once, and their numbers are nowhere but in the vault."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg
import grpc
import pytest

from codebank.bank.store.reading import list_cards
from codebank.bank.test_cards import DEMO_ACCOUNT, TEST_CARDS
from codebank.bank.vault import Vault
from codebank.card import passes_luhn
from codebank.runtime.postgres.pool import open_pool
from codebank.v1 import bank_pb2 as pb
from tests.bank import (
    APPROVED,
    MERCHANT,
    OPERATOR,
    charge,
    charge_issued,
    issue,
    read_books,
    refusal,
    require_sound_books,
)
from tests.conftest import TEST_MERCHANT_KEY, TEST_VAULT_KEY, BankServer, Databases, seed

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = pytest.mark.anyio


async def block(bank: BankAsyncStub, card_id: str, reason: pb.BlockCardRequest.Reason.ValueType) -> int:
    """Block a card, and give its status."""
    request = pb.BlockCardRequest(card_id=card_id, reason=reason)
    return (await bank.BlockCard(request, metadata=OPERATOR)).card.status


async def unblock(bank: BankAsyncStub, card_id: str) -> int:
    """Unblock a card, and give its status."""
    return (await bank.UnblockCard(pb.UnblockCardRequest(card_id=card_id), metadata=OPERATOR)).card.status


async def types_of(books: asyncpg.Connection, account_id: str) -> list[str]:
    """Give the types of an account's events, in order."""
    rows = await books.fetch("select type from outbox where account_id = $1 order by sequence", account_id)
    return [row["type"].removeprefix("codebank.") for row in rows]


async def test_a_new_card_pays_at_once(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 5_000)

    answer = await bank.Authorize(charge_issued("k", issued, 5_000), metadata=MERCHANT)
    read = (await bank.GetCard(pb.GetCardRequest(card_id=issued.card.card_id), metadata=OPERATOR)).card

    assert answer.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert passes_luhn(issued.number)
    assert issued.card.masked == f"•••• {issued.number[-4:]}"
    assert (read.holder_name, read.limit.amount_minor, read.used.amount_minor) == ("Rui Dias", 5_000, 5_000)
    assert await types_of(books, issued.card.account_id) == ["account.opened", "card.issued", "payment.approved"]
    await require_sound_books(books)


async def test_a_repeated_order_gives_the_same_card_and_shows_its_number_no_more(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    first = await issue(bank, 5_000, "once")
    before = await read_books(books)

    again = await issue(bank, 5_000, "once")

    assert again.card == first.card
    assert (again.number, again.cvv) == ("", "")
    assert await read_books(books) == before


async def test_the_same_order_twenty_times_at_once_is_one_card(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    limit = pb.Money(amount_minor=100, currency="BRL")
    request = pb.IssueCardRequest(new_account=pb.NewAccount(holder_name="x", limit=limit), idempotency_key="once")
    calls = [bank.IssueCard(request, metadata=OPERATOR) for _ in range(20)]

    answers = [await call for call in calls]

    assert len({answer.card.card_id for answer in answers}) == 1
    assert sum(bool(answer.number) for answer in answers) == 1
    assert await books.fetchval("select count(*) from card where issue_key = 'once'") == 1
    await require_sound_books(books)


async def test_a_second_card_of_an_account_shares_its_limit(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    first = await issue(bank, 1_000)
    request = pb.IssueCardRequest(account_id=first.card.account_id, idempotency_key="second")
    second = await bank.IssueCard(request, metadata=OPERATOR)

    approved = await bank.Authorize(charge_issued("a", first, 700), metadata=MERCHANT)
    declined = await bank.Authorize(charge_issued("b", second, 400), metadata=MERCHANT)

    assert second.card.account_id == first.card.account_id
    assert approved.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert declined.payment.decline_code == pb.DECLINE_CODE_LIMIT_EXCEEDED
    await require_sound_books(books)


async def test_a_blocked_card_pays_no_more_until_it_is_unblocked(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    card_id = issued.card.card_id

    assert await block(bank, card_id, pb.BlockCardRequest.REASON_BLOCKED) == pb.CARD_STATUS_BLOCKED
    refused = await bank.Authorize(charge_issued("a", issued), metadata=MERCHANT)
    assert await unblock(bank, card_id) == pb.CARD_STATUS_ACTIVE
    approved = await bank.Authorize(charge_issued("b", issued), metadata=MERCHANT)

    assert refused.payment.decline_code == pb.DECLINE_CODE_CARD_BLOCKED
    assert approved.payment.status == pb.PAYMENT_STATUS_APPROVED
    assert await types_of(books, issued.card.account_id) == [
        "account.opened", "card.issued", "card.blocked", "payment.declined", "card.unblocked", "payment.approved",
    ]  # fmt: skip
    await require_sound_books(books)


@pytest.mark.parametrize("reason", [pb.BlockCardRequest.REASON_LOST, pb.BlockCardRequest.REASON_STOLEN])
async def test_a_lost_or_stolen_card_stays_so(
    reason: pb.BlockCardRequest.Reason.ValueType, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    status = await block(bank, issued.card.card_id, reason)
    before = await read_books(books)

    again = await block(bank, issued.card.card_id, pb.BlockCardRequest.REASON_BLOCKED)
    error = await refusal(unblock(bank, issued.card.card_id))

    assert again == status
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "never pays again" in str(error.details())
    assert await read_books(books) == before


async def test_blocking_and_unblocking_again_tells_no_second_event(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)
    for _ in range(3):
        await block(bank, issued.card.card_id, pb.BlockCardRequest.REASON_BLOCKED)
    for _ in range(3):
        await unblock(bank, issued.card.card_id)

    assert await types_of(books, issued.card.account_id) == [
        "account.opened", "card.issued", "card.blocked", "card.unblocked",
    ]  # fmt: skip
    await require_sound_books(books)


async def test_wrong_attempts_are_kept_and_wear_the_card_out(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 1_000)
    wrong = f"{(int(issued.cvv) + 1) % 1000:03d}"

    codes = []
    for number in range(6):
        request = charge_issued(f"k{number}", issued)
        request.card_data.cvv = wrong
        codes.append((await bank.Authorize(request, metadata=MERCHANT)).payment.decline_code)
    right = await bank.Authorize(charge_issued("right", issued), metadata=MERCHANT)

    assert codes == [pb.DECLINE_CODE_WRONG_CVV] * 5 + [pb.DECLINE_CODE_TOO_MANY_ATTEMPTS]
    assert right.payment.decline_code == pb.DECLINE_CODE_TOO_MANY_ATTEMPTS
    card = UUID(issued.card.card_id)
    assert await books.fetchval("select wrong_attempts from card where card_id = $1", card) == 5
    assert (await read_books(books)).used_minor == 0


async def test_a_replayed_wrong_attempt_is_counted_once(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 1_000)
    request = charge_issued("k", issued)
    request.card_data.cvv = f"{(int(issued.cvv) + 1) % 1000:03d}"

    for _ in range(6):
        await bank.Authorize(request, metadata=MERCHANT)

    card = UUID(issued.card.card_id)
    assert await books.fetchval("select wrong_attempts from card where card_id = $1", card) == 1


async def test_wrong_attempts_in_one_batch_are_all_counted(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    issued = await issue(bank, 1_000)
    requests = [charge_issued(f"k{number}", issued) for number in range(8)]
    for request in requests:
        request.card_data.cvv = f"{(int(issued.cvv) + 1) % 1000:03d}"
    message = pb.AuthorizeStreamRequest(requests=requests)

    answers = [answer async for answer in bank.AuthorizeStream(iter([message]), metadata=MERCHANT)]

    codes = [result.response.payment.decline_code for result in answers[0].results]
    assert codes == [pb.DECLINE_CODE_WRONG_CVV] * 5 + [pb.DECLINE_CODE_TOO_MANY_ATTEMPTS] * 3


async def test_trap_b06_one_number_is_one_card_and_the_look_up_finds_that_one(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    first, second = await issue(bank, 1_000, "a"), await issue(bank, 1_000, "b")
    fingerprint = Vault(TEST_VAULT_KEY).fingerprint(first.number)

    with pytest.raises(asyncpg.UniqueViolationError):
        await books.execute(
            "update card set fingerprint = $1 where card_id = $2", fingerprint, UUID(second.card.card_id)
        )
    await bank.Authorize(charge_issued("k", first), metadata=MERCHANT)

    used = await books.fetch("select account_id from account where used_minor > 0")
    assert [str(row["account_id"]) for row in used] == [first.card.account_id]
    assert first.number != second.number


async def test_trap_a24_numbers_and_cvvs_are_in_no_table_but_sealed(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 10_000)
    unknown = charge("unknown")
    unknown.card_data.number, unknown.card_data.cvv = "4000009999999993", "987"
    await bank.Authorize(charge_issued("approved", issued), metadata=MERCHANT)
    await bank.Authorize(charge_issued("declined", issued, 10_001), metadata=MERCHANT)
    await bank.Authorize(unknown, metadata=MERCHANT)
    await bank.Authorize(charge("published"), metadata=MERCHANT)
    await bank.Cancel(pb.CancelRequest(idempotency_key="approved"), metadata=MERCHANT)

    everything = await dump(books)

    for number in (issued.number, unknown.card_data.number, APPROVED.number):
        assert number not in everything
        assert number.encode().hex() not in everything
        assert number[:-4] not in everything
    columns = await books.fetch(
        "select column_name from information_schema.columns where table_schema = 'public' and table_name <> 'migration'"
    )
    assert not {row["column_name"] for row in columns} & {"cvv", "cvc", "pan", "number", "card_number"}
    sealed = await books.fetchval("select number_sealed from card where card_id = $1", UUID(issued.card.card_id))
    assert Vault(TEST_VAULT_KEY).open(sealed, UUID(issued.card.card_id)) == issued.number


async def dump(books: asyncpg.Connection) -> str:
    """Write every table as text, with what is inside the events as it is read."""
    tables = await books.fetch("select tablename from pg_tables where schemaname = 'public'")
    texts = []
    for table in tables:
        texts += [row[0] for row in await books.fetch(f'select t::text from "{table["tablename"]}" t')]
    texts += [row["value"].decode() for row in await books.fetch("select value from outbox")]
    return "\n".join(texts)


async def test_trap_a24_a_refusal_tells_no_number_and_no_cvv(
    bank: BankAsyncStub, caplog: pytest.LogCaptureFixture
) -> None:
    request = charge("k", -1)
    request.card_data.cvv = "98765"
    error = await refusal(bank.Authorize(request, metadata=MERCHANT))

    told = f"{error.details()} {error.trailing_metadata()} {caplog.text}"
    assert APPROVED.number not in told
    assert "98765" not in told


async def test_seeding_again_changes_nothing(bank_server: BankServer, books: asyncpg.Connection) -> None:
    before = await read_books(books)
    cards = await books.fetch("select * from card order by card_id")

    await seed(bank_server.settings)

    assert await read_books(books) == before
    assert await books.fetch("select * from card order by card_id") == cards
    assert len(cards) == sum(card.account_id is not None for card in TEST_CARDS)
    assert len({row["fingerprint"] for row in cards}) == len(cards)
    await require_sound_books(books)


async def test_the_operator_lists_cards_without_their_numbers(
    databases: Databases, bank: BankAsyncStub, bank_server: BankServer
) -> None:
    issued = await issue(bank, 1_000)
    pool = await open_pool(databases.dsn("bank", "audit"), max_size=1)
    async with pool.acquire() as connection:
        listed = await list_cards(connection)
    await pool.close()

    assert str(listed[0][1].card_id) == issued.card.card_id
    assert {account.account_id for account, _ in listed} >= {DEMO_ACCOUNT}
    assert issued.number not in repr(listed)


async def test_a_merchants_key_is_kept_as_a_hash_only(bank: BankAsyncStub, books: asyncpg.Connection) -> None:
    assert TEST_MERCHANT_KEY not in await dump(books)
    assert TEST_MERCHANT_KEY.encode().hex() not in await dump(books)
