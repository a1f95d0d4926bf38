"""The log that the tests of this room write and read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from codebank.eventlog.local.log import LocalLog
from codebank.runtime.postgres.pool import open_pool
from tests.conftest import Databases


@pytest.fixture
async def log(databases: Databases) -> AsyncIterator[LocalLog]:
    pool = await open_pool(databases.dsn("log"))
    yield LocalLog(pool, databases.dsn("log"), member_timeout_seconds=1)
    await pool.close()
