"""What the bank's tests speak with: a bank in the test's own process, or one of several processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from codebank.machine.postgres import EmbeddedPostgres
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import PREFIX, Settings
from tests.bank import calling
from tests.conftest import BankServer, Databases, lent_databases, seed, serving_bank
from tests.system import RoleProcess, free_port, role_process

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub


@pytest.fixture
def bank_processes() -> int:
    """Say how many processes the bank has; a test that wants more names them by `parametrize`."""
    return 1


@pytest.fixture
async def databases(postgres: EmbeddedPostgres, bank_processes: int) -> AsyncIterator[Databases]:
    """Give empty databases of the test's own; the roles' own names are what processes look for."""
    async with lent_databases(postgres, plain=bank_processes > 1) as lent:
        yield lent


@contextlib.asynccontextmanager
async def running_processes(settings: Settings, state: Path, count: int) -> AsyncIterator[RoleProcess]:
    """Run a bank of several processes on a test's databases."""
    dsn = settings.database_url("bank")
    own = {
        "bank_processes": count,
        "bank_port": free_port(),
        "state": state,
        "postgres": f"postgresql:///?{dsn.partition('?')[2]}",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= settings.environment() | {PREFIX + name.upper(): str(value) for name, value in own.items()}
    async with role_process("bank", environment) as running:
        yield running


@pytest.fixture
async def bank_server(settings: Settings, folder: Path, bank_processes: int) -> AsyncIterator[BankServer]:
    """Give a running bank."""
    await seed(settings)
    if bank_processes == 1:
        async with serving_bank(settings) as server:
            yield server
        return
    async with running_processes(settings, folder, bank_processes) as running:
        yield BankServer(running.settings.bank_target(), running.settings, Telemetry(METRICS))


@pytest.fixture
async def bank(bank_server: BankServer, bank_processes: int) -> AsyncIterator[BankAsyncStub]:
    async with calling(bank_server.address, bank_processes) as stub:
        yield stub


@pytest.fixture
async def books(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("bank")
    yield connection
    await connection.close()
