"""THE TABLE of what may heal, against a real server: each error provoked, and told from a mistake of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import asyncpg
import pytest

from codebank.runtime.postgres.errors import CONNECTION_ERRORS, LOCK_ERRORS, OUTAGES, UNWRITABLE_ERRORS
from codebank.runtime.postgres.pool import Connection, connect, connected, listening, open_pool
from tests.conftest import Databases
from tests.eventlog.test_relay import until

pytestmark = pytest.mark.anyio


@dataclass
class Server:
    """A database with two seats to take, its administrator, and a pool of ours."""

    keeper: asyncpg.Connection
    pool: asyncpg.Pool
    dsn: str

    async def send_away(self, role: str = "ours") -> None:
        """End sessions, as a server that is shut down does."""
        await self.keeper.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = $1",
            role,
        )


@pytest.fixture
async def server(databases: Databases) -> AsyncIterator[Server]:
    keeper = await connect(databases.server.dsn(databases.names["bank"], "postgres"), role="keeper")
    await keeper.execute("create table seat (number int primary key, taken int); insert into seat values (1), (2)")
    await keeper.execute('alter table seat owner to "bank"')
    pool = await open_pool(databases.dsn("bank"), max_size=2, role="ours")
    yield Server(keeper, pool, databases.dsn("bank"))
    await pool.close()
    await keeper.execute("drop table seat")
    await keeper.close()


async def take(connection: Connection, number: int) -> None:
    await connection.execute("update seat set taken = 1 where number = $1", number)


async def lose_a_deadlock(server: Server) -> None:
    met = asyncio.Barrier(2)

    async def take_both(first: int, second: int) -> None:
        async with server.pool.acquire() as connection, connection.transaction():
            await take(connection, first)
            await met.wait()
            await take(connection, second)

    both = await asyncio.gather(take_both(1, 2), take_both(2, 1), return_exceptions=True)
    (error,) = [error for error in both if error is not None]
    raise error


async def lose_a_serialization(server: Server) -> None:
    async with server.pool.acquire() as mine, mine.transaction(isolation="repeatable_read"):
        await mine.fetch("select * from seat")
        async with server.pool.acquire() as other:
            await take(other, 1)
        await take(mine, 1)


async def wait_for_a_lock_in_vain(server: Server) -> None:
    async with server.pool.acquire() as mine, server.pool.acquire() as other, other.transaction():
        await take(other, 1)
        await mine.execute("set lock_timeout = '20ms'")
        await take(mine, 1)


async def not_wait_for_a_lock(server: Server) -> None:
    async with server.pool.acquire() as mine, server.pool.acquire() as other, other.transaction():
        await take(other, 1)
        await mine.execute("select * from seat where number = 1 for update nowait")


async def meet_a_migration(server: Server) -> None:
    async with server.pool.acquire() as mine:
        await mine.fetch("select * from seat where number = $1", 1)
        await server.keeper.execute("alter table seat add column colour text")
        async with mine.transaction():
            await mine.fetch("select * from seat where number = $1", 1)


async def find_it_read_only(server: Server) -> None:
    async with server.pool.acquire() as connection:
        await connection.execute("set default_transaction_read_only = on")
        await take(connection, 1)


def find_it(sqlstate: str) -> Callable[[Server], Awaitable[None]]:
    async def raise_it(server: Server) -> None:
        await server.pool.execute(f"do $$ begin raise exception 'it is so' using errcode = '{sqlstate}'; end $$")

    return raise_it


async def take_too_long(server: Server) -> None:
    async with server.pool.acquire() as connection:
        await connection.execute("set statement_timeout = '20ms'")
        await connection.execute("select pg_sleep(5)")


async def wait_for_no_answer(server: Server) -> None:
    await server.pool.execute("select pg_sleep(5)", timeout=0.02)


async def be_too_many(server: Server) -> None:
    await server.keeper.execute('alter role "bank" connection limit 1')
    try:
        await connect(server.dsn)
    finally:
        await server.keeper.execute('alter role "bank" connection limit -1')


async def be_sent_away_in_a_call(server: Server) -> None:
    async with server.pool.acquire() as connection:
        await connection.execute("select pg_terminate_backend(pg_backend_pid())")


async def be_sent_away_between_calls(server: Server) -> None:
    async with server.pool.acquire() as connection:
        await gone_after(connection, server.send_away())
        await take(connection, 1)


async def think_too_long_in_a_transaction(server: Server) -> None:
    async with server.pool.acquire() as connection, connection.transaction():
        await gone_after(connection, connection.execute("set idle_in_transaction_session_timeout = '20ms'"))
        await take(connection, 1)


async def be_sent_away_without_a_pool(server: Server) -> None:
    async with connected(server.dsn, role="alone") as connection:
        await gone_after(connection, server.send_away("alone"))
        await take(connection, 1)


async def gone_after(connection: Connection, doing: Awaitable[object]) -> None:
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _: gone.set())
    await doing
    await gone.wait()


async def find_nobody(server: Server) -> None:
    await connect("postgresql://bank@127.0.0.1:1/bank")


@pytest.mark.parametrize(
    ("provoke", "kind", "discards"),
    [
        (lose_a_deadlock, LOCK_ERRORS, False),
        (lose_a_serialization, LOCK_ERRORS, False),
        (wait_for_a_lock_in_vain, LOCK_ERRORS, False),
        (not_wait_for_a_lock, LOCK_ERRORS, False),
        (meet_a_migration, LOCK_ERRORS, False),
        (find_it_read_only, UNWRITABLE_ERRORS, True),
        (find_it("53100"), UNWRITABLE_ERRORS, False),
        (find_it("53200"), UNWRITABLE_ERRORS, False),
        (find_it("58030"), UNWRITABLE_ERRORS, False),
        (take_too_long, UNWRITABLE_ERRORS, False),
        (wait_for_no_answer, CONNECTION_ERRORS, True),
        (find_it("57P02"), CONNECTION_ERRORS, True),
        (find_it("57P03"), CONNECTION_ERRORS, True),
        (find_it("25P04"), CONNECTION_ERRORS, True),
        (be_too_many, CONNECTION_ERRORS, False),
        (be_sent_away_in_a_call, CONNECTION_ERRORS, True),
        (be_sent_away_between_calls, CONNECTION_ERRORS, True),
        (be_sent_away_without_a_pool, CONNECTION_ERRORS, False),
        (think_too_long_in_a_transaction, CONNECTION_ERRORS, True),
        (find_nobody, CONNECTION_ERRORS, False),
    ],
)
async def test_trap_c07_what_may_heal_stands_in_the_table_and_a_spoilt_connection_is_thrown_away(
    server: Server, provoke: Callable[[Server], Awaitable[None]], kind: tuple[type[Exception], ...], discards: bool
) -> None:
    before = {await server.pool.fetchval("select pg_backend_pid()")}

    with pytest.raises(kind):
        await provoke(server)

    async with server.pool.acquire() as one, server.pool.acquire() as other:
        after = {await connection.fetchval("select pg_backend_pid()") for connection in (one, other)}
        await take(one, 1)
    assert (before <= after) == (not discards)


async def use_it_with_an_argument_too_many(server: Server) -> None:
    await server.pool.execute("select 1", "one too many")


async def use_it_with_what_does_not_fit(server: Server) -> None:
    await server.pool.execute("select $1::int", "no number")


async def use_it_twice_at_once(server: Server) -> None:
    async with server.pool.acquire() as connection, asyncio.TaskGroup() as group:
        group.create_task(connection.execute("select pg_sleep(0.2)"))
        group.create_task(connection.execute("select 1"))


async def ask_for_what_is_not_there(server: Server) -> None:
    await server.pool.execute("select * from nowhere")


async def use_it_without_a_pool(server: Server) -> None:
    async with connected(server.dsn, role="ours") as connection:
        await connection.execute("select 1", "one too many")


@pytest.mark.parametrize(
    "provoke",
    [
        use_it_with_an_argument_too_many,
        use_it_with_what_does_not_fit,
        use_it_twice_at_once,
        ask_for_what_is_not_there,
        use_it_without_a_pool,
    ],
)
async def test_trap_c02_a_mistake_of_ours_is_no_outage(
    server: Server, provoke: Callable[[Server], Awaitable[None]]
) -> None:
    with pytest.raises(Exception) as raised:  # whatever it is: that it is none of the table
        await provoke(server)

    errors = raised.value.exceptions if isinstance(raised.value, ExceptionGroup) else (raised.value,)
    assert [error for error in errors if isinstance(error, OUTAGES)] == []


async def test_trap_c05_what_a_hung_process_holds_is_taken_from_it(server: Server) -> None:
    """Every session of a pool asks the server for it; one that only reads may think for longer."""
    settings = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")

    async def bounds(connection: Connection) -> list[int]:
        return [
            await connection.fetchval("select setting::int / 1000 from pg_settings where name = $1", name)
            for name in settings
        ]

    reading = await open_pool(server.dsn, role="ours", read_only=True)
    async with server.pool.acquire() as one, reading.acquire() as other, connected(server.dsn, role="ours") as single:
        idle_seconds, lock_seconds, statement_seconds = await bounds(one)
        reading_idle_seconds, _, reading_seconds = await bounds(other)
        assert await bounds(single) == await bounds(one)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await take(other, 1)
    await reading.close()

    assert 0 < idle_seconds < lock_seconds < statement_seconds
    assert min(reading_idle_seconds, reading_seconds) >= 300


async def test_a_listener_outlives_its_connection_and_hears_again(server: Server) -> None:
    heard: list[str] = []

    async with listening(server.dsn, "seats", heard.append, role="ours"):
        await until(lambda: has(heard, [""]))
        await server.keeper.execute("select pg_notify('seats', 'one')")
        await until(lambda: has(heard, ["", "one"]))
        await server.send_away()
        await until(lambda: has(heard, ["", "one", ""]))
        await server.keeper.execute("select pg_notify('seats', 'two')")
        await until(lambda: has(heard, ["", "one", "", "two"]))


async def test_trap_c02_a_listener_that_stumbles_ends_the_block(server: Server) -> None:
    def stumble(_payload: str) -> None:
        raise KeyError("stumbled")

    async def listen_on() -> None:
        async with listening(server.dsn, "seats", stumble, role="ours"):
            await asyncio.Event().wait()

    with pytest.raises(KeyError, match="stumbled"):
        await listen_on()


async def has(heard: list[str], wanted: list[str]) -> bool:
    return heard == wanted
