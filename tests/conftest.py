"""Fixtures: the embedded mode is the test double. One PostgreSQL for the session, fresh databases for each test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from codebank.bank.app import open_bank
from codebank.bank.seed import seed_bank
from codebank.bank.vault import Vault
from codebank.machine.postgres import EmbeddedPostgres
from codebank.roles import METRICS
from codebank.runtime.postgres.migrate import migrate
from codebank.runtime.postgres.pool import connect
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import DATABASES, READER_ROLE, Settings

TEST_VAULT_KEY = "5a" * 32
TEST_OPERATOR_KEY = "operator-key-of-the-tests"
TEST_MERCHANT_KEY = "merchant-key-of-the-tests"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send the tests of a file that share one running system to one worker.

    The mark `xdist_group` would say so, but xdist 3.8 writes it where pytest 9.2 no longer reads a test's id.
    """
    from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

    if config.getvalue("dist") != "loadgroup":
        return None
    scheduling = LoadGroupScheduling(config, log)
    scheduling._split_scope = lambda name: name.partition("::")[0] if name.startswith("tests/release/") else name
    return scheduling


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder that the database's user may pass through, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """Start one server for the session, with a migrated template of each database."""
    made = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    made.chmod(0o711)
    server = EmbeddedPostgres(made / "postgres", durable=False)
    try:
        server.start()
        asyncio.run(_make_templates(server))
        yield server
    finally:
        server.stop()
        shutil.rmtree(made, ignore_errors=True)


async def _make_templates(server: EmbeddedPostgres) -> None:
    await prepare_databases(server.dsn("postgres", "postgres"), list(DATABASES), READER_ROLE)
    for database in DATABASES:
        connection = await connect(server.dsn(database, database))
        await migrate(connection, database)
        await connection.close()
    keeper = await connect(server.dsn("postgres", "postgres"))
    for database in DATABASES:
        await keeper.execute(f'alter database "{database}" rename to "template_{database}"')
    await keeper.close()


_numbers = itertools.count(1)


@dataclass
class Databases:
    """Fresh databases of one test, and how to reach them."""

    server: EmbeddedPostgres
    names: dict[str, str] = field(default_factory=dict)

    def dsn(self, database: str, role: str | None = None) -> str:
        """Give the address of a database for its owner, or for the role named."""
        return self.server.dsn(self.names[database], role or database)

    async def connect(self, database: str) -> asyncpg.Connection:
        """Open a connection as the owner."""
        return await connect(self.dsn(database))


async def make_databases(server: EmbeddedPostgres, *, plain: bool = False) -> Databases:
    """Copy the templates; named as in a real system for roles that run as processes, else by a name of their own."""
    made = Databases(server)
    number = next(_numbers)
    keeper = await connect(server.dsn("postgres", "postgres"))
    for database in DATABASES:
        name = database if plain else f"{database}_{os.getpid()}_{number}"
        await keeper.execute(
            f'create database "{name}" template "template_{database}" owner "{database}" strategy file_copy'
        )
        made.names[database] = name
    await keeper.close()
    return made


async def empty_databases(made: Databases) -> None:
    """Make them as they were: much cheaper than new ones. Whoever is still connected is sent away."""
    for database, name in made.names.items():
        keeper = await connect(made.server.dsn(name, "postgres"))
        await keeper.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        # Entries may not be deleted, not even by their owner: a superuser sets the trigger aside.
        await keeper.execute("set session_replication_role = replica")
        tables = await keeper.fetch("select tablename from pg_tables where schemaname = 'public'")
        kept = {"migration", "topic", "partition_end"}
        for table in {row["tablename"] for row in tables} - kept:
            await keeper.execute(f'delete from "{table}"')
        if database == "log":
            await keeper.execute("update partition_end set next_offset = 0; update topic set writer_epoch = 0")
        await keeper.close()


_idle: dict[bool, list[Databases]] = {False: [], True: []}


@contextlib.asynccontextmanager
async def lent_databases(postgres: EmbeddedPostgres, *, plain: bool = False) -> AsyncIterator[Databases]:
    """Give empty migrated databases: bank, checkout, statement and log."""
    idle = _idle[plain]
    made = idle.pop() if idle else await make_databases(postgres, plain=plain)
    yield made
    await empty_databases(made)
    idle.append(made)


@pytest.fixture
async def databases(postgres: EmbeddedPostgres) -> AsyncIterator[Databases]:
    """Give empty databases of the test's own."""
    async with lent_databases(postgres) as lent:
        yield lent


class TestSettings(Settings):
    """Settings whose databases are those of one test."""

    __test__ = False
    databases: Databases

    def database_url(self, database: str, role: str | None = None) -> str:
        """Give the address of the test's own database."""
        return self.databases.dsn(database, role)


def settings_for(databases: Databases, **changes: object) -> Settings:
    """Make settings for a test's databases."""
    made = TestSettings(
        vault_key=TEST_VAULT_KEY,
        operator_key=TEST_OPERATOR_KEY,
        merchant_key=TEST_MERCHANT_KEY,
        web_secret="web-secret-of-the-tests",
        test_cards=True,
        demo=True,
        member_timeout_seconds=1,
        stop_grace_seconds=5,
        bank_processes=1,
    )
    made = replace(made, **changes)  # type: ignore[arg-type]
    object.__setattr__(made, "databases", databases)
    return made


@pytest.fixture
def settings(databases: Databases) -> Settings:
    """Give settings whose databases are the test's own."""
    return settings_for(databases)


@dataclass
class BankServer:
    """A running bank with the demo's merchant, accounts and test cards."""

    address: str
    settings: Settings
    telemetry: Telemetry
    merchant_key: str = TEST_MERCHANT_KEY
    operator_key: str = TEST_OPERATOR_KEY


@contextlib.asynccontextmanager
async def serving_bank(settings: Settings) -> AsyncIterator[BankServer]:
    """Run a bank on a free port."""
    telemetry = Telemetry(METRICS)
    async with open_bank(settings, telemetry, "127.0.0.1:0") as port:
        yield BankServer(f"127.0.0.1:{port}", settings, telemetry)


async def seed(settings: Settings) -> None:
    """Put the demo's data into the bank."""
    connection = await connect(settings.database_url("bank"))
    await seed_bank(connection, Vault(TEST_VAULT_KEY), TEST_MERCHANT_KEY)
    await connection.close()


@pytest.fixture
async def bank_server(settings: Settings) -> AsyncIterator[BankServer]:
    """Give a running bank."""
    await seed(settings)
    async with serving_bank(settings) as server:
        yield server
