"""The lean load makes the calls that it says, looks at every answer, and says what went wrong."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from codebank.errors import CodebankError
from codebank.events import CARD_BLOCKED, CARD_ISSUED, CARD_UNBLOCKED
from codebank.lab.load import BANK, BANK_STREAM, BATCH, Target, Turn, closed_loop, open_loop, stream
from codebank.lab.mixing import mixed_loop
from codebank.lab.plain_sql import sql
from tests.bank import APPROVED, published
from tests.conftest import TEST_MERCHANT_KEY, BankServer
from tests.system import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def target(bank_server: BankServer) -> Target:
    card = (APPROVED.number, APPROVED.cvv, APPROVED.expiry_year, APPROVED.expiry_month, "")
    return Target(bank_server.address, TEST_MERCHANT_KEY, bank_server.settings.database_url("bank"), [card])


@pytest.fixture
async def books(bank_server: BankServer) -> asyncpg.Connection:
    connection = await asyncpg.connect(bank_server.settings.database_url("bank"))
    await connection.execute("update account set limit_minor = 100000000000 where limit_minor > 0")
    return connection


async def payments(books: asyncpg.Connection) -> tuple[int, int]:
    row = await books.fetchrow("select count(*), count(distinct idempotency_key) from payment")
    await books.close()
    assert row is not None
    return row[0], row[1]


def require_plausible(turn: Turn, calls: int) -> None:
    assert len(turn.call_microseconds) == calls
    assert turn.call_microseconds == sorted(turn.call_microseconds)
    assert turn.load_microseconds > 0
    assert turn.per_second == turn.items * 1_000_000 // turn.microseconds


@pytest.mark.parametrize("connections", [1, 3])
async def test_a_closed_loop_makes_each_payment_once(
    target: Target, books: asyncpg.Connection, connections: int
) -> None:
    turn = await asyncio.to_thread(closed_loop, replace(target, connections=connections), 1, BANK, 5)

    assert turn.items > 5
    require_plausible(turn, turn.items)
    assert await payments(books) == (turn.items, turn.items)


async def test_an_open_loop_begins_as_many_calls_as_it_was_told(target: Target, books: asyncpg.Connection) -> None:
    turn = await asyncio.to_thread(open_loop, target, 1, BANK, 50)

    require_plausible(turn, 50)
    assert await payments(books) == (50, 50)


async def test_a_stream_carries_its_charges_a_hundred_at_a_time(target: Target, books: asyncpg.Connection) -> None:
    turn = await asyncio.to_thread(stream, target, 1, BANK_STREAM)

    assert turn.items >= 4 * BATCH
    require_plausible(turn, turn.items // BATCH)
    assert await payments(books) == (turn.items, turn.items)


async def test_plain_sql_writes_as_many_payments_as_it_says(target: Target, books: asyncpg.Connection) -> None:
    token = await books.fetchval(
        "select token from card where status = 'active' and masked = $1", f"•••• {APPROVED.number[-4:]}"
    )
    with_token = replace(target, cards=[(*target.cards[0][:-1], token)])

    turn = await asyncio.to_thread(sql, with_token, 1)

    assert await payments(books) == (turn.items, turn.items)


async def test_a_refused_payment_ends_the_load(target: Target) -> None:
    card = published("card_blocked")
    blocked = replace(target, cards=[(card.number, card.cvv, card.expiry_year, card.expiry_month, "")])

    for load, path in ((closed_loop, BANK), (stream, BANK_STREAM)):
        arguments = (1, path, 2) if load is closed_loop else (1, path)
        with pytest.raises(CodebankError, match="was not approved"):
            await asyncio.to_thread(load, blocked, *arguments)


async def test_a_call_that_fails_ends_the_load_with_what_the_server_said(target: Target) -> None:
    with pytest.raises(CodebankError, match=r"a call failed.*grpc-status"):
        await asyncio.to_thread(closed_loop, replace(target, merchant_key="nobody's"), 1, BANK, 2)


async def test_a_server_that_is_not_there_is_named(target: Target) -> None:
    away = replace(target, address=f"127.0.0.1:{free_port()}")

    with pytest.raises(CodebankError, match="nobody answers at 127"):
        await asyncio.to_thread(closed_loop, away, 1, BANK, 2)


async def test_a_mixed_load_carries_out_every_kind_and_counts_its_charges(
    bank_server: BankServer, target: Target, books: asyncpg.Connection
) -> None:
    with_operator = replace(target, operator_key=bank_server.settings.operator_key)

    turn = await asyncio.to_thread(mixed_loop, with_operator, 1, 5)

    charges = turn.items - turn.others
    assert charges > turn.others > 0
    assert await books.fetchval("select count(*) from payment where status = 'refunded'") > 0
    told = {row["type"] for row in await books.fetch("select distinct type from outbox")}
    assert told >= {CARD_ISSUED, CARD_BLOCKED, CARD_UNBLOCKED}
    assert await payments(books) == (charges, charges)


async def test_a_mixed_load_ends_where_a_call_is_refused(target: Target) -> None:
    with pytest.raises(CodebankError, match="a call failed"):
        await asyncio.to_thread(mixed_loop, replace(target, operator_key="nobody's"), 1, 2)
