"""What a failover, and a process that hangs, do to everybody else: nothing that lasts, nothing that needs a hand."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import httpx
import pytest

from codebank.audit.proof.reconcile import Proof
from codebank.roles import ROLES
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import connect
from codebank.settings import DATABASES, Settings
from codebank.v1 import bank_pb2
from tests.bank import APPROVED as APPROVED_CARD
from tests.bank import MERCHANT, calling, charge, charge_issued, issue
from tests.checkout.shop import APPROVED, TIMEOUT_AFTER_COMMIT, card_body, orders_of
from tests.conftest import Databases
from tests.system import System, free_port, own_server, role_process, running_system

pytestmark = pytest.mark.anyio

READ_ONLY_SECONDS = 8
#: What the settings below allow an order to be open, and some room for a busy machine.
SETTLED_SECONDS = 25


@pytest.fixture
async def system(databases: Databases) -> AsyncIterator[System]:
    async with running_system(
        databases, resolve_after_seconds=1, cancel_after_seconds=4, call_budget_seconds=2
    ) as made:
        yield made


async def buy(system: System, key: str, number: str = APPROVED) -> int:
    """Buy something, and tell how the shop answered."""
    body = {"items": [{"product": "caneca-esmaltada", "quantity": 1}], "card": card_body(number)}
    async with system.shop() as shop:
        with suppress(httpx.HTTPError):
            return (await shop.post("/api/orders", json=body, headers={"idempotency-key": key})).status_code
    return 0


@asynccontextmanager
async def buying(system: System) -> AsyncIterator[list[int]]:
    """Buy again and again beside the block; give how the shop answered."""
    answers: list[int] = []
    numbers = itertools.count()

    async def keep_buying() -> None:
        while True:
            answers.append(await buy(system, f"load-{next(numbers)}"))
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        buyers = [group.create_task(keep_buying()) for _ in range(2)]
        yield answers
        for buyer in buyers:
            buyer.cancel()


@asynccontextmanager
async def read_only(databases: Databases, *names: str) -> AsyncIterator[None]:
    """Let databases take no writes, as a server does that a failover has made a stand-by.

    All of them: sessions stay and find it out. Some of them: sessions are cut, and who comes anew finds it out.
    """
    keeper = await connect(databases.server.dsn("postgres", "postgres"), role="keeper")
    await keeper.execute("set default_transaction_read_only = off")

    async def turn(word: str) -> None:
        if set(names) == set(DATABASES):
            await keeper.execute(f"alter system set default_transaction_read_only = {word}")
            await keeper.execute("select pg_reload_conf()")
            return
        for name in names:
            await keeper.execute(f'alter database "{databases.names[name]}" set default_transaction_read_only = {word}')
            await keeper.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", databases.names[name]
            )

    await turn("on")
    try:
        yield
    finally:
        await turn("off")
        await keeper.execute("alter system reset default_transaction_read_only")
        await keeper.execute("select pg_reload_conf()")
        for name in names:
            await keeper.execute(f'alter database "{databases.names[name]}" reset default_transaction_read_only')
        await keeper.close()


async def settled(system: System) -> list[str]:
    """Wait until no order is open, and give how they ended."""
    async with asyncio.timeout(SETTLED_SECONDS):
        while True:
            with suppress(*OUTAGES):
                statuses = [order["status"] for order in await orders_of(system.settings)]
                if not {"pending", "processing"} & set(statuses):
                    return statuses
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "names", [DATABASES, ("bank",), ("checkout",), ("statement",), ("log",)], ids=lambda names: "+".join(names)
)
async def test_trap_c07_a_server_that_is_read_only_for_a_while_leaves_nothing_behind(
    databases: Databases, system: System, names: tuple[str, ...]
) -> None:
    assert await buy(system, "before") < 500
    async with buying(system) as answers:
        open_order = asyncio.create_task(buy(system, "open", TIMEOUT_AFTER_COMMIT))
        await asyncio.sleep(0.5)
        async with read_only(databases, *names):
            await asyncio.sleep(READ_ONLY_SECONDS if names == DATABASES else READ_ONLY_SECONDS / 4)
        count = len(answers)
        async with asyncio.timeout(SETTLED_SECONDS):
            while not any(status < 500 for status in answers[count:] if status):
                await asyncio.sleep(0.1)
    await open_order

    statuses = await settled(system)
    proof = await proven(system)
    async with system.statement() as statement:
        page = await statement.get("/")
    assert proof.agrees, proof
    assert "paid" in statuses
    assert page.status_code == 200
    # Nobody had to be started again: every role is the one of the beginning, at work.
    assert [name for name, (task, _) in system.running.items() if task.done()] == []
    assert set(system.running) == set(ROLES)


async def proven(system: System) -> Proof:
    async with asyncio.timeout(SETTLED_SECONDS):
        while True:
            with suppress(*OUTAGES, TimeoutError):
                return await system.proven()


#: What a bank is that was stopped in the middle: a session of ours that holds an account, and is not heard of again.
HOLDER = """
import asyncio, os, signal, sys
from codebank.runtime.postgres.pool import open_pool

async def main():
    pool = await open_pool(sys.argv[1], role="bank")
    async with pool.acquire() as connection, connection.transaction():
        await connection.fetch("select * from account where account_id = $1::text::uuid for update", sys.argv[2])
        os.kill(os.getpid(), signal.SIGSTOP)

asyncio.run(main())
"""


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def stopped_holder(dsn: str, account_id: str) -> AsyncIterator[None]:
    """Hold an account by a process that stands still."""
    holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, dsn, account_id)
    try:
        async with asyncio.timeout(20):
            while not is_stopped(holder.pid):
                await asyncio.sleep(0.02)
        yield
    finally:
        holder.kill()
        await holder.wait()


async def approved(call: Callable[[], Awaitable[bank_pb2.AuthorizeResponse]]) -> None:
    """Ask with the same key until the bank decides, as the shop does."""
    while True:
        try:
            answer = await call()
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            continue
        assert answer.payment.status == bank_pb2.PAYMENT_STATUS_APPROVED
        return


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_trap_c05_a_bank_that_was_stopped_in_its_transaction_holds_up_nobody(folder: Path) -> None:
    port = free_port()
    async with (
        own_server(folder / "state") as environment,
        role_process("bank", environment, bank_port=port),
        role_process("bank", environment, bank_port=free_port()) as other,
        calling(f"127.0.0.1:{port}") as caller,
    ):
        dsn = Settings.load(environment).database_url("bank")
        issued = await issue(caller, 100_000)
        reader = await connect(dsn)

        async def charge_freely(key: str) -> bank_pb2.AuthorizeResponse:
            return await caller.Authorize(charge_issued(key, issued), metadata=MERCHANT, timeout=5)

        async def charge_held() -> bank_pb2.AuthorizeResponse:
            return await caller.Authorize(charge("held"), metadata=MERCHANT, timeout=5)

        async with stopped_holder(dsn, str(APPROVED_CARD.account_id)), asyncio.TaskGroup() as group:
            other.signal(signal.SIGSTOP)
            held = group.create_task(approved(charge_held))
            for number in range(5):
                await charge_freely(f"free-{number}")

            # Other accounts were charged while this one was still held; then the server ends the session that stands
            # still, and this one is charged too.
            assert not held.done()
            assert await reader.fetchval("select count(*) from pg_stat_activity where state = 'idle in transaction'")
            async with asyncio.timeout(20):
                await held
        await reader.close()
