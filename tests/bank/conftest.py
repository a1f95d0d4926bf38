"""What the bank's tests speak with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from tests.bank import calling
from tests.conftest import BankServer, Databases

if TYPE_CHECKING:
    from codebank.v1.bank_pb2_grpc import BankAsyncStub


@pytest.fixture
async def bank(bank_server: BankServer) -> AsyncIterator[BankAsyncStub]:
    async with calling(bank_server.address) as stub:
        yield stub


@pytest.fixture
async def books(databases: Databases) -> AsyncIterator[asyncpg.Connection]:
    connection = await databases.connect("bank")
    yield connection
    await connection.close()
