"""The system of a bench: a durable database and a bank of its own, and what they cost."""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from codebank.bank.drawing import Plastic, issuing
from codebank.bank.operation import OpenAccount
from codebank.bank.seed import carry_out, seed_bank
from codebank.bank.vault import Vault
from codebank.card import with_check_digit
from codebank.errors import Code, CodebankError
from codebank.lab.load import Card, Target
from codebank.lab.processor import family_microseconds
from codebank.money import Money
from codebank.runtime.children import command_of
from codebank.runtime.postgres.migrate import migrate
from codebank.runtime.postgres.pool import Connection, connect
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.watch.health import is_ready
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.wire import new_id, utc_now

#: Runs a durable PostgreSQL of its own in a folder, and gives its administrator's address.
OpenServer = Callable[[Path], AbstractContextManager[str]]
Tell = Callable[[str], None]
_ACCOUNTS_AT_ONCE: Final = 500
_TELL_ACCOUNTS: Final = 50_000
_LIMIT: Final = Money(90_000_000_000_000, "BRL")
_START_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Rig:
    """A bank that serves, on a database of its own."""

    settings: Settings
    target: Target
    #: The process that serves, and the server of the database.
    bank_pid: int
    postgres_pid: int

    @contextmanager
    def another(self, *arguments: str, batch_size_max: int = 0) -> Iterator[Rig]:
        """Serve a second bank on the same database, whose batches may be smaller."""
        settings = replace(
            self.settings,
            bank_port=some_port(),
            bank_health_port=some_port(),
            batch_size_max=batch_size_max or self.settings.batch_size_max,
        )
        with serving(settings, *arguments) as server:
            yield replace(
                self,
                settings=settings,
                target=replace(self.target, address=f"127.0.0.1:{settings.bank_port}"),
                bank_pid=server.pid,
            )

    def halves(self) -> tuple[Rig, Rig]:
        """Give it with one half of the cards, and with the other: who has accounts of its own moves nobody else's."""
        half = len(self.target.cards) // 2
        cards = self.target.cards[:half], self.target.cards[half:]
        mine, others = (replace(self, target=replace(self.target, cards=each)) for each in cards)
        return mine, others

    def spent_microseconds(self) -> tuple[int, int]:
        """Give the processor time that the bank and the database have spent."""
        return family_microseconds(self.bank_pid), family_microseconds(self.postgres_pid)


def describe_machine() -> str:
    """Say what is measured on."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{machine}, Python {platform.python_version()}, fsync on"


@contextmanager
def open_rig(open_server: OpenServer, tell: Tell, accounts: int = 200) -> Iterator[Rig]:
    """Give a bank on a durable database of its own, and how it is loaded."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-bench-"))
    folder.chmod(0o711)
    settings = replace(
        Settings(state=folder),
        vault_key=secrets.token_hex(32),
        merchant_key=secrets.token_hex(16),
        operator_key=secrets.token_hex(16),
        bank_port=some_port(),
        bank_health_port=some_port(),
    )
    try:
        tell("starting PostgreSQL and the bank")
        with open_server(folder / "postgres") as admin_dsn:
            cards = asyncio.run(_prepare(admin_dsn, settings, accounts, tell))
            with serving(settings) as server:
                target = Target(
                    f"127.0.0.1:{settings.bank_port}",
                    settings.merchant_key,
                    settings.database_url("bank"),
                    cards,
                    operator_key=settings.operator_key,
                )
                yield Rig(settings, target, server.pid, _postgres_pid(folder / "postgres"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def serving(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the bank of a bench as a process of its own."""
    server = subprocess.Popen(
        command_of("codebank.lab.benchserver", *arguments), env={**os.environ, **settings.environment()}
    )
    try:
        asyncio.run(_until_ready(settings, server))
        yield server
    finally:
        server.terminate()
        server.wait()


async def _prepare(admin_dsn: str, settings: Settings, accounts: int, tell: Tell) -> list[Card]:
    await prepare_databases(admin_dsn, list(DATABASES), READER_ROLE)
    for database in DATABASES:
        connection = await connect(settings.database_url(database))
        await migrate(connection, database)
        await connection.close()
    bank = await connect(settings.database_url("bank"))
    vault, cards = Vault(settings.vault_key), list[Card]()
    await seed_bank(bank, vault, settings.merchant_key)
    await bank.execute("delete from card")  # only the accounts of this bench are charged
    for first in range(0, accounts, _ACCOUNTS_AT_ONCE):
        numbers = range(first, min(accounts, first + _ACCOUNTS_AT_ONCE))
        async with bank.transaction():
            cards += await _open_accounts(bank, vault, numbers)
        if first and first % _TELL_ACCOUNTS == 0:
            tell(f"{first} of {accounts} accounts opened")
    await bank.close()
    return cards


async def _open_accounts(bank: Connection, vault: Vault, numbers: range) -> list[Card]:
    """Open an account with a card for each number."""
    year, month = utc_now().year + 5, 12
    operations, cards = [], []
    for number in numbers:
        opens = OpenAccount(
            account_id=new_id(),
            holder_name=f"Bench {number}",
            currency=_LIMIT.currency,
            limit_minor=_LIMIT.amount_minor,
        )
        digits = with_check_digit(f"40000030{number:07d}")
        operation = issuing(vault, Plastic(digits, (year, month)), opens.account_id, opens=opens)
        operations.append(operation)
        cards.append((digits, vault.cvv(digits, year, month), year, month, operation.card.token))
    await carry_out(bank, operations)
    return cards


async def _until_ready(settings: Settings, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not await is_ready("127.0.0.1", settings.bank_health_port):
        if server.poll() is not None or time.monotonic() > deadline:
            raise CodebankError(Code.UNAVAILABLE, "the bank of the bench did not start")
        await asyncio.sleep(0.05)


def _postgres_pid(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])


def some_port() -> int:
    """Give a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
