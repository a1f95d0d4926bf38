"""What a bank remembers spares it a look; it never decides on what has moved, nor for another session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from codebank.bank.door.behaviour import ForcedBehaviour
from codebank.bank.door.requests import RequestReader
from codebank.bank.executor import Executor, Held, decide_all
from codebank.bank.known import read_known
from codebank.bank.memory import Memory
from codebank.bank.operation import OPERATOR_ID, Authorize, Cancel, Key, Operation, PaymentAnswer, UnblockCard
from codebank.bank.seed import seed_bank
from codebank.bank.test_cards import DEMO_ACCOUNT, DEMO_MERCHANT, TEST_CARDS, TestCard
from codebank.bank.vault import Vault
from codebank.errors import CodebankError
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.watch.telemetry import Telemetry
from tests.bank import charge, require_sound_books
from tests.conftest import TEST_MERCHANT_KEY, TEST_VAULT_KEY, Databases

pytestmark = pytest.mark.anyio

VAULT = Vault(TEST_VAULT_KEY)
READER = RequestReader(VAULT, ForcedBehaviour(True))
SESSION, ANOTHER = 1, 2
FIRST, SECOND = TEST_CARDS[:2]


@pytest.fixture
async def books(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("bank")
    await seed_bank(connection, VAULT, TEST_MERCHANT_KEY)
    yield connection
    await require_sound_books(connection)
    await connection.close()


@pytest.fixture
async def pools(databases: Databases, books: asyncpg.Connection) -> AsyncIterator[list[asyncpg.Pool]]:
    opened = [await open_pool(databases.dsn("bank"), max_size=1) for _ in range(2)]
    yield opened
    for pool in opened:
        await pool.close()


@pytest.fixture
def bank(pools: list[asyncpg.Pool]) -> Executor:
    return Executor(pools[0], Telemetry(METRICS))


@pytest.fixture
def other_bank(pools: list[asyncpg.Pool]) -> Executor:
    return Executor(pools[1], Telemetry(METRICS))


def charging(name: str, amount_minor: int = 100, card: TestCard = FIRST) -> Authorize:
    return READER.authorize(charge(name, amount_minor, card), DEMO_MERCHANT)


async def answer(bank: Executor, operation: Operation) -> PaymentAnswer:
    (result,) = await bank.carry_out([operation])
    assert isinstance(result, PaymentAnswer)
    return result


async def remembering(books: asyncpg.Connection, name: str) -> Memory:
    """Give the memory of a bank that charged once."""
    memory, operations = Memory(), [charging(name)]
    known = await read_known(books, memory, operations)
    _, writes = decide_all(known, operations)
    memory.remember(SESSION, known, writes, was_read=True)
    return memory


async def test_a_second_charge_of_a_card_reads_nothing(bank: Executor, pools: list[asyncpg.Pool]) -> None:
    await answer(bank, charging("first"))
    statements: list[str] = []
    async with pools[0].acquire() as connection:
        connection.add_query_logger(lambda record: statements.append(record.query))

    again = await answer(bank, charging("second"))

    assert again.payment.decline_code is None
    assert len(statements) == 1
    assert "insert into payment" in statements[0]


@pytest.mark.parametrize(
    ("session", "operation"),
    [
        (ANOTHER, charging("new")),
        (SESSION, charging("used")),
        (SESSION, Cancel(merchant_id=DEMO_MERCHANT, target="used")),
        (SESSION, charging("unknown", card=SECOND)),
    ],
    ids=["another session", "a key that was used", "an operation on an earlier one", "another card"],
)
async def test_nothing_is_recalled_where_something_must_be_read(
    books: asyncpg.Connection, session: int, operation: Operation
) -> None:
    memory = await remembering(books, "used")

    assert memory.recall(SESSION, [charging("new")]) is not None
    assert memory.recall(session, [charging("new 2"), operation]) is None


async def test_an_account_that_somebody_else_changes_too_is_read_each_time(books: asyncpg.Connection) -> None:
    memory = await remembering(books, "first")
    memory.forget([DEMO_ACCOUNT])
    operations = [charging("second")]
    known = await read_known(books, memory, operations)
    memory.remember(SESSION, known, decide_all(known, operations)[1], was_read=True)

    assert memory.recall(SESSION, [charging("third")]) is None


async def test_what_another_bank_changed_meanwhile_is_decided_on_as_it_is(
    bank: Executor, other_bank: Executor, books: asyncpg.Connection
) -> None:
    limit_minor = await books.fetchval("select limit_minor from account where account_id = $1", DEMO_ACCOUNT)
    await answer(bank, charging("remembered"))
    await answer(other_bank, charging("elsewhere", limit_minor - 200))

    exceeding = await answer(bank, charging("too much", 101))
    fitting = await answer(bank, charging("just enough", 100))

    assert exceeding.payment.decline_code == "limit_exceeded"
    assert fitting.payment.decline_code is None


async def test_a_key_that_another_bank_took_gives_its_first_answer(bank: Executor, other_bank: Executor) -> None:
    await answer(bank, charging("remembered"))
    first = await answer(other_bank, charging("shared"))
    # The other bank's charge moved the account; this one makes the first bank's memory new again.
    await answer(bank, charging("remembered again"))

    again = await answer(bank, charging("shared"))
    (other_request,) = await bank.carry_out([charging("shared", 999)])

    assert again.replayed
    assert again.payment == first.payment
    assert isinstance(other_request, CodebankError)


async def test_a_card_that_a_hand_blocked_pays_no_more(bank: Executor, books: asyncpg.Connection) -> None:
    paid = await answer(bank, charging("paid"))
    await books.execute("update card set status = 'blocked' where card_id = $1", paid.payment.card_id)

    refused = await answer(bank, charging("refused"))

    assert refused.payment.decline_code == "card_blocked"


async def test_what_changes_nothing_is_not_answered_from_memory(bank: Executor, books: asyncpg.Connection) -> None:
    card_id = (await answer(bank, charging("paid"))).payment.card_id
    assert card_id is not None
    await books.execute("update card set status = 'blocked' where card_id = $1", card_id)

    # As the bank remembers the card there is nothing to unblock, and so nothing that a write would refuse.
    await bank.carry_out([UnblockCard(key=Key(OPERATOR_ID, "unblock", bytes(32)), card_id=card_id)])
    paid = await answer(bank, charging("paid again"))

    assert paid.payment.decline_code is None


async def test_another_card_of_the_account_is_not_taken_for_what_it_was(
    bank: Executor, books: asyncpg.Connection
) -> None:
    second_card = (await answer(bank, charging("second card", card=SECOND))).payment.card_id
    await answer(bank, charging("first card"))
    await books.execute("update card set status = 'lost' where card_id = $1", second_card)
    # Reads the account anew, with the first card only: something of the batch is not remembered.
    await bank.carry_out([charging("first card again"), Cancel(merchant_id=DEMO_MERCHANT, target="unknown")])

    refused = await answer(bank, charging("second card again", card=SECOND))

    assert refused.payment.decline_code == "card_lost"


async def test_a_database_put_back_to_an_earlier_moment_is_not_decided_on_from_memory(
    bank: Executor, pools: list[asyncpg.Pool], books: asyncpg.Connection
) -> None:
    await answer(bank, charging("remembered"))
    paid = await answer(bank, charging("and again"))

    # The same version counted to a second time, with another state: what only a restore can bring about.
    async with books.transaction():
        await books.execute("alter table account disable trigger account_is_counted")
        await books.execute("update account set status = 'closed' where account_id = $1", DEMO_ACCOUNT)
        await books.execute("alter table account enable trigger account_is_counted")
    await pools[0].expire_connections()
    refused = await answer(bank, charging("after the restore"))

    assert paid.payment.decline_code is None
    assert refused.payment.decline_code == "account_closed"


async def test_a_remembered_account_that_somebody_holds_is_waited_for_once(
    databases: Databases, books: asyncpg.Connection
) -> None:
    pool = await open_pool(databases.dsn("bank"), max_size=1, server_settings={"lock_timeout": "100ms"})
    bank = Executor(pool, Telemetry(METRICS))
    statements: list[str] = []
    try:
        await answer(bank, charging("remembered"))
        async with pool.acquire() as connection:
            connection.add_query_logger(lambda record: statements.append(record.query))
        async with books.transaction():
            await books.execute("select from account where account_id = $1 for update", DEMO_ACCOUNT)
            held = await bank.carry_out([charging("held")])
        freed = await bank.carry_out_held([charging("held")])
    finally:
        await pool.close()

    assert held == [Held.HELD]
    assert isinstance(freed[0], PaymentAnswer)
    # Each wait is the lane's, and everybody's behind it.
    assert sum("insert into payment" in one for one in statements) == 2


async def test_memory_has_bounds(monkeypatch: pytest.MonkeyPatch, books: asyncpg.Connection) -> None:
    monkeypatch.setattr("codebank.bank.memory._ACCOUNTS_MAX", 0)
    monkeypatch.setattr("codebank.bank.memory._KEYS_MAX", 0)

    memory = await remembering(books, "first")

    assert memory.recall(SESSION, [charging("second")]) is None
    assert UUID(int=0) not in memory.merchants
    assert (len(memory._accounts), len(memory._keys), len(memory._older_keys)) == (0, 0, 1)
    for number in range(3):
        memory.forget([UUID(int=number)])
    assert len(memory._shared) == 1
