"""A bank of two processes behind one port: both work, both are told of as one, and nothing is lost with either."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import grpc
import httpx
import pytest

from codebank.lab.processor import resident_bytes
from codebank.runtime.watch.health import Health, ask_health
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from tests.bank import MERCHANT, calling, charge_issued, committing, issue, require_sound_books
from tests.bank.conftest import running_processes
from tests.conftest import seed
from tests.system import CODEBANK, RoleProcess, free_port

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(sys.platform != "linux", reason="processes share a port on Linux")]

PROCESSES = 2
APPROVED = pb.PAYMENT_STATUS_APPROVED


@pytest.fixture
def bank_processes() -> int:
    return PROCESSES


@pytest.fixture
async def running(settings: Settings, folder: Path) -> AsyncIterator[RoleProcess]:
    await seed(settings)
    async with running_processes(settings, folder, PROCESSES) as made:
        yield made


@pytest.fixture
async def bank(running: RoleProcess) -> AsyncIterator[BankAsyncStub]:
    async with calling(running.settings.bank_target(), PROCESSES) as stub:
        yield stub


def members(running: RoleProcess) -> list[int]:
    """Find the processes that do the work."""
    pid = running.process.pid
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def ended(running: RoleProcess) -> int:
    return await asyncio.to_thread(running.process.wait, 20)


async def shown(running: RoleProcess) -> dict[str, float]:
    """Read the role's metrics."""
    async with httpx.AsyncClient(timeout=5) as browser:
        answer = await browser.get(f"http://127.0.0.1:{running.settings.bank_health_port}/metrics")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


async def test_both_take_calls_and_are_told_of_as_one(running: RoleProcess) -> None:
    """Each answers while the other stands still: over so many connections, some lead to either."""
    both = members(running)
    async with calling(running.settings.bank_target(), 8 * PROCESSES) as bank:
        issued = await issue(bank, 100_000)

        calls: list[asyncio.Future[pb.AuthorizeResponse]] = []
        for stopped in both:
            os.kill(stopped, signal.SIGSTOP)
            some = [pay(bank, issued, f"{stopped}-{number}") for number in range(64)]
            done, _ = await asyncio.wait(some, timeout=10, return_when=asyncio.FIRST_COMPLETED)
            os.kill(stopped, signal.SIGCONT)
            assert done
            calls += some
        answers = await asyncio.gather(*calls)

    assert len(both) == PROCESSES
    assert {answer.payment.status for answer in answers} == {APPROVED}
    metrics = await shown(running)
    assert metrics['codebank_rpc_total{method="Authorize",status="OK"}'] == 128
    assert metrics['codebank_rpc_seconds_count{method="Authorize"}'] == 128
    assert metrics['codebank_payments_total{code="",outcome="approved"}'] == 128
    assert metrics["codebank_queue_items"] == 0
    assert {value for series, value in metrics.items() if series.startswith("codebank_info")} == {1}
    assert metrics["process_resident_memory_bytes"] > 1.5 * max(map(resident_bytes, both))


def pay(bank: BankAsyncStub, issued: pb.IssueCardResponse, key: str) -> asyncio.Future[pb.AuthorizeResponse]:
    async def call() -> pb.AuthorizeResponse:
        return await bank.Authorize(charge_issued(key, issued), metadata=MERCHANT)

    return asyncio.ensure_future(call())


async def test_one_that_hangs_is_seen_and_goes_with_the_parent(running: RoleProcess) -> None:
    port = running.settings.bank_health_port
    both = members(running)
    assert await ask_health("127.0.0.1", port, live=True) is Health.WELL

    os.kill(both[1], signal.SIGSTOP)

    assert await ask_health("127.0.0.1", port, live=True) is Health.NOT_WELL
    assert await ask_health("127.0.0.1", port) is Health.NOT_WELL
    async with httpx.AsyncClient(timeout=5) as browser:
        assert (await browser.get(f"http://127.0.0.1:{port}/metrics")).status_code == 503  # no sum of a part
    running.process.kill()
    await ended(running)
    async with asyncio.timeout(10):
        while is_open(running.settings.bank_port):
            await asyncio.sleep(0.01)


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_when_one_is_killed_the_others_finish_and_the_role_ends_for_its_keeper_to_see(
    running: RoleProcess, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 100_000)
    both = members(running)

    calls = [pay(bank, issued, f"k{number}") for number in range(400)]
    await asyncio.wait(calls, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    os.kill(both[0], signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)

    assert await ended(running) == 1
    assert f"process {both[0]} ended with status -9" in running.log_path.read_text()
    stored = {row[0] for row in await books.fetch("select idempotency_key from payment")}
    answered = {one.payment.idempotency_key for one in outcomes if not isinstance(one, BaseException)}
    assert answered <= stored
    errors = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, grpc.aio.AioRpcError) for one in errors)
    await require_sound_books(books)


async def test_a_stop_answers_what_was_taken(
    running: RoleProcess, bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    issued = await issue(bank, 1_000)

    async with committing(books, lambda: bank.Authorize(charge_issued("held", issued), metadata=MERCHANT)) as held:
        running.signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while await ask_health("127.0.0.1", running.settings.bank_health_port) is Health.WELL:
                await asyncio.sleep(0.01)

    assert (await held).payment.status == APPROVED
    assert await ended(running) == 0


async def test_what_is_wrong_at_the_start_is_said_once_and_a_port_is_not_shared_with_strangers(
    running: RoleProcess,
) -> None:
    again = {**running.environment, "CODEBANK_BANK_HEALTH_PORT": str(free_port())}

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CODEBANK, "run", "bank"],
            env={**again, **settings},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    taken = await asyncio.to_thread(run)
    alone = await asyncio.to_thread(run, CODEBANK_BANK_PROCESSES="1")
    wrong = await asyncio.to_thread(run, CODEBANK_BANK_PORT=str(free_port()), CODEBANK_VAULT_KEY="none")

    assert taken.returncode == 1
    assert "address already in use" in taken.stderr
    assert "CODEBANK_BANK_PORT" in taken.stderr
    assert alone.returncode == 1
    assert "Failed to bind" in alone.stderr
    assert wrong.returncode in (1, 2)
    assert wrong.stderr.count("codebank: ") == wrong.stderr.count("64 hexadecimal digits") == 1
    assert "critical" not in wrong.stderr


async def test_whatever_is_asked_of_both_at_once_a_key_has_one_outcome_and_the_books_are_sound(
    bank: BankAsyncStub, books: asyncpg.Connection
) -> None:
    for seed_number in range(12):
        await ask_at_random(bank, books, random.Random(seed_number), f"seed {seed_number}")
    await require_sound_books(books)


async def ask_at_random(bank: BankAsyncStub, books: asyncpg.Connection, chance: random.Random, name: str) -> None:
    """Charge few accounts with few keys, again and again, and cancel some, all at once; then compare."""
    limits = [chance.randint(100, 2_000) for _ in range(3)]
    cards = [await issue(bank, limit, f"{name} card {number}") for number, limit in enumerate(limits)]
    keys = {f"{name} key {n}": (chance.choice(cards), chance.randint(1, 400)) for n in range(15)}
    asked = [chance.choice(list(keys)) for _ in range(60)]
    cancelled = set(chance.sample(list(keys), 4))

    async def charge_once(key: str) -> tuple[str, str, bool]:
        card, amount_minor = keys[key]
        answer = await bank.Authorize(charge_issued(key, card, amount_minor), metadata=MERCHANT)
        return key, answer.payment.payment_id, answer.replayed

    async def cancel(key: str) -> None:
        await bank.Cancel(pb.CancelRequest(idempotency_key=key), metadata=MERCHANT)

    works = [charge_once(key) for key in asked] + [cancel(key) for key in cancelled]
    chance.shuffle(works)
    answers = [answer for answer in await asyncio.gather(*works) if answer is not None]

    payments = {key: {payment_id for asked_key, payment_id, _ in answers if asked_key == key} for key in set(asked)}
    assert {key for key, ids in payments.items() if len(ids) != 1} == set()
    first = Counter(key for key, _, replayed in answers if not replayed and key not in cancelled)
    assert set(first.values()) == {1}
    approved = {row[0] for row in await books.fetch("select idempotency_key from payment where status = 'approved'")}
    assert approved & cancelled == set()
    for card, limit in zip(cards, limits, strict=True):
        spent = sum(amount for key, (used, amount) in keys.items() if used is card and key in approved)
        used = await books.fetchval("select used_minor from account where account_id = $1", card.card.account_id)
        assert used == spent <= limit
