"""`codebank bench authorize`: our Authorize beside a no-op echo of the same server and the same rows by plain SQL.

Contenders take turns in one run, so that a busy machine slows them all; figures are medians with their spread, and
what counts is the ratio. PostgreSQL is embedded and durable (fsync on); the load is a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from codebank.audit.proof.prove import prove_once
from codebank.bank.drawing import Plastic, issuing
from codebank.bank.operation import OpenAccount
from codebank.bank.seed import carry_out, seed_bank
from codebank.bank.vault import Vault
from codebank.card import with_check_digit
from codebank.errors import Code, CodebankError
from codebank.lab.load import BATCH, Target, Turn, run_turn
from codebank.money import Money
from codebank.runtime.postgres.migrate import migrate
from codebank.runtime.postgres.pool import connect
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.watch.health import is_ready
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.wire import new_id, utc_now

#: Contender, calls in flight, and what its ratio is measured against.
CONTENDERS: Final = (
    ("echo", 1, ""),
    ("authorize", 1, "echo"),
    ("echo", 32, ""),
    ("authorize", 32, "echo"),
    ("echo", 128, ""),
    ("authorize", 128, "echo"),
    ("sql", 1, ""),
    ("stream", BATCH, "sql"),
)
#: Runs a durable PostgreSQL of its own in a folder, and gives its administrator's address.
OpenServer = Callable[[Path], AbstractContextManager[str]]
_ACCOUNTS: Final = 200
_LIMIT: Final = Money(90_000_000_000_000, "BRL")
_START_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contender reached."""

    contender: str
    in_flight: int
    per_second_median: int
    per_second_min: int
    per_second_max: int
    call_milliseconds_p50: str
    call_milliseconds_p99: str
    #: Percent of what it is measured against, median of the rounds' ratios; 0 where it is the measure.
    ratio_percent: int


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run."""

    figures: Sequence[Figure]
    rounds: int
    rig: str
    proof_agrees: bool
    payments: int

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "rounds": self.rounds,
            "payments": self.payments,
            "proof_agrees": self.proof_agrees,
            "figures": [
                {name: getattr(figure, name) for name in Figure.__dataclass_fields__} for figure in self.figures
            ],
        }


def bench_authorize(open_server: OpenServer, rounds: int, seconds: int, tell: Callable[[str], None]) -> Result:
    """Measure in alternating rounds on a system of its own, then prove that every side agrees."""
    with bench_system(open_server, tell) as (settings, target):
        turns: dict[tuple[str, int], list[Turn]] = {(name, in_flight): [] for name, in_flight, _ in CONTENDERS}
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load:
            for name, in_flight, _ in CONTENDERS:
                load.submit(run_turn, target, name, in_flight, 1).result()  # warms up; not counted
            for number in range(1, rounds + 1):
                for name, in_flight, _ in CONTENDERS:
                    turn = load.submit(run_turn, target, name, in_flight, seconds).result()
                    turns[name, in_flight].append(turn)
                    tell(f"round {number}/{rounds}  {name:<9} {in_flight:>3} in flight  {turn.per_second:>7}/s")
        tell("proving")
        proof = asyncio.run(prove_once(settings))
        payments = next(check.compared for check in proof.checks if check.name == "moved")
    return Result([_figure(turns, *one) for one in CONTENDERS], rounds, rig(), proof.agrees, payments)


def _figure(turns: dict[tuple[str, int], list[Turn]], name: str, in_flight: int, measure: str) -> Figure:
    mine = turns[name, in_flight]
    rates = [turn.per_second for turn in mine]
    ratio = 0
    if measure:
        against = turns[measure, in_flight if measure == "echo" else 1]
        ratios = [left.per_second * 100 // right.per_second for left, right in zip(mine, against, strict=True)]
        ratio = round(statistics.median(ratios))
    calls = sorted(call for turn in mine for call in turn.call_microseconds)
    return Figure(
        name,
        in_flight,
        round(statistics.median(rates)),
        min(rates),
        max(rates),
        _milliseconds(calls, 50),
        _milliseconds(calls, 99),
        ratio,
    )


def _milliseconds(calls: Sequence[int], percent: int) -> str:
    if not calls:
        return ""
    microseconds = calls[min(len(calls) - 1, len(calls) * percent // 100)]
    return f"{microseconds // 1000}.{microseconds % 1000 // 100}"


def table_of(result: Result) -> str:
    """Write a run as a table."""
    lines = [
        f"{result.rig}; {result.rounds} alternating rounds, medians (least–most)",
        "",
        f"{'contender':<10} {'in flight':>9} {'per second':>11} {'least–most':>16} {'p50 ms':>7} {'p99 ms':>7}  ratio",
    ]
    for figure in result.figures:
        spread = f"{figure.per_second_min}–{figure.per_second_max}"
        measure = next(m for name, n, m in CONTENDERS if (name, n) == (figure.contender, figure.in_flight))
        ratio = f"{figure.ratio_percent} % of {measure}" if measure else ""
        lines.append(
            f"{figure.contender:<10} {figure.in_flight:>9} {figure.per_second_median:>11} {spread:>16}"
            f" {figure.call_milliseconds_p50:>7} {figure.call_milliseconds_p99:>7}  {ratio}"
        )
    word = "all sides agree" if result.proof_agrees else "THE SIDES DO NOT AGREE"
    return "\n".join([*lines, "", f"proof after {result.payments} payments: {word}"])


def rig() -> str:
    """Say what is measured on."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{machine}, Python {platform.python_version()}, fsync on"


@contextmanager
def bench_system(open_server: OpenServer, tell: Callable[[str], None]) -> Iterator[tuple[Settings, Target]]:
    """Give a bank on a durable database of its own, and how it is loaded."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-bench-"))
    folder.chmod(0o711)
    settings = replace(
        Settings(state=folder),
        vault_key=secrets.token_hex(32),
        merchant_key=secrets.token_hex(16),
        bank_port=some_port(),
        bank_health_port=some_port(),
    )
    try:
        tell("starting PostgreSQL and the bank")
        with open_server(folder / "postgres") as admin_dsn:
            cards = asyncio.run(_prepare(admin_dsn, settings))
            with serving(settings):
                address = f"127.0.0.1:{settings.bank_port}"
                yield settings, Target(address, settings.merchant_key, settings.database_url("bank"), cards)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the bank of a bench as a process of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "codebank.lab.benchserver", *arguments], env={**os.environ, **settings.environment()}
    )
    try:
        asyncio.run(_until_ready(settings, server))
        yield server
    finally:
        server.terminate()
        server.wait()


async def _prepare(admin_dsn: str, settings: Settings) -> list[tuple[str, str, int, int]]:
    await prepare_databases(admin_dsn, list(DATABASES), READER_ROLE)
    for database in DATABASES:
        connection = await connect(settings.database_url(database))
        await migrate(connection, database)
        await connection.close()
    bank = await connect(settings.database_url("bank"))
    vault, now, cards = Vault(settings.vault_key), utc_now(), []
    await seed_bank(bank, vault, settings.merchant_key)
    async with bank.transaction():
        await bank.execute("delete from card")  # only the accounts of this bench are charged
        for number in range(_ACCOUNTS):
            opens = OpenAccount(
                account_id=new_id(),
                holder_name=f"Bench {number}",
                currency=_LIMIT.currency,
                limit_minor=_LIMIT.amount_minor,
            )
            digits, year, month = with_check_digit(f"40000030{number:07d}"), now.year + 5, 12
            await carry_out(bank, [issuing(vault, Plastic(digits, (year, month)), opens.account_id, opens=opens)])
            cards.append((digits, vault.cvv(digits, year, month), year, month))
    await bank.close()
    return cards


async def _until_ready(settings: Settings, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not await is_ready("127.0.0.1", settings.bank_health_port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise CodebankError(Code.UNAVAILABLE, "the bank of the bench did not start")
        await asyncio.sleep(0.05)


def some_port() -> int:
    """Give a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
