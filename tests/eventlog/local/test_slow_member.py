"""A member of a group of the embedded log, on a machine under load."""

from __future__ import annotations

import pytest

from codebank.eventlog.local.group import Group
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.postgres.pool import open_pool
from tests.conftest import Databases

pytestmark = pytest.mark.anyio


async def test_a_member_that_is_slow_to_settle_does_not_bury_itself(databases: Databases) -> None:
    pool = await open_pool(databases.dsn("log"))
    try:
        # Between its own word and its look at the silent, more time passes than it may be silent.
        slow = Group(pool, PAYMENTS_TOPIC, "statement", "slow", timeout_seconds=0)

        assert len(await slow.keep()) == 12
    finally:
        await pool.close()
