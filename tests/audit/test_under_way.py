"""The age of the oldest event under way, from the outbox, the log and the positions themselves."""

from __future__ import annotations

from datetime import timedelta

import pytest

from codebank.audit.control.under_way import oldest_under_way
from codebank.audit.store.sides import open_sides
from codebank.runtime.postgres.pool import connect
from codebank.wire import utc_now
from tests.audit.test_proof import shop_around, shop_around_more
from tests.conftest import Databases
from tests.system import System, running_system

pytestmark = pytest.mark.anyio


async def oldest_in_an_hour(system: System) -> float:
    async with open_sides(system.settings) as sides:
        return await oldest_under_way(sides, utc_now() + timedelta(hours=1))


async def test_an_event_that_no_gauge_tells_of_is_seen(databases: Databases) -> None:
    async with running_system(databases, "bank", "checkout", "relay", "projector") as system:
        await shop_around(system, 3)
        await system.proven()
        none = await oldest_in_an_hour(system)

        # Nobody reads: no projector, and so no gauge of one.
        await system.stop("projector")
        await shop_around_more(system, 10)
        async with open_sides(system.settings) as sides:
            while not await oldest_under_way(sides, utc_now() + timedelta(hours=1)):
                pass
        unread = await oldest_in_an_hour(system)
        await system.start("projector")
        await system.proven()

        # Nobody ships.
        await system.stop("relay")
        await shop_around_more(system, 20)
        unshipped = await oldest_in_an_hour(system)
        await system.start("relay")
        await system.proven()
        await system.stop("projector")

        # The statement says that it has read what this log does not have.
        statement = await connect(system.settings.database_url("statement"))
        await statement.execute("update position set next_offset = 1000000 where next_offset > 0")
        await statement.close()
        beyond = await oldest_in_an_hour(system)

    assert none == 0
    assert all(3600 <= age < 3660 for age in (unread, unshipped, beyond))
