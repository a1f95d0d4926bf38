"""Several banks and no mesh: the checkout takes turns among them, and does without one that goes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from codebank.checkout.bank import BankClient
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.wire import new_id
from tests.conftest import TEST_MERCHANT_KEY, BankServer, seed, serving_bank

pytestmark = pytest.mark.anyio


def answered(server: BankServer) -> float:
    """Count the calls that one bank answered."""
    found = server.telemetry.registry.get_sample_value(
        "codebank_rpc_total", {"method": "GetPayment", "status": "NOT_FOUND"}
    )
    return found or 0


async def counted(banks: Sequence[BankServer], calls: int) -> list[float]:
    """Wait until so many calls are counted, which a bank does after its answer; give each bank's."""
    while sum(map(answered, banks)) < calls:
        await asyncio.sleep(0)
    return [answered(bank) for bank in banks]


async def test_calls_are_spread_over_every_bank_and_none_is_lost_with_one_of_them(settings: Settings) -> None:
    await seed(settings)
    async with serving_bank(settings) as first, serving_bank(settings) as second:
        async with serving_bank(settings) as third:
            banks = (first, second, third)
            # What a headless service's name gives: an address for each replica.
            every = "ipv4:" + ",".join(bank.address for bank in banks)
            client = BankClient(every, TEST_MERCHANT_KEY, 5, Telemetry(METRICS))
            calls = 0
            while not all(answered(bank) for bank in banks):
                assert await client.find(new_id()) is None
                calls += 1
            before = await counted(banks, calls)
            for _ in range(30):
                assert await client.find(new_id()) is None
            after = await counted(banks, calls + 30)

            # By turns: none has more than its share.
            assert [now - then for now, then in zip(after, before, strict=True)] == [10, 10, 10]
        for _ in range(10):
            assert await client.find(new_id()) is None
        await client.close()
    assert sum(await counted(banks, calls + 40)) == calls + 40


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
async def test_calls_over_several_connections_go_where_the_fewest_are_under_way(settings: Settings) -> None:
    await seed(settings)
    async with serving_bank(settings) as bank:
        client = BankClient(bank.address, TEST_MERCHANT_KEY, 5, Telemetry(METRICS), channels=3)
        found = await asyncio.gather(*(client.find(new_id()) for _ in range(30)))
        established = connections_to(bank.address)
        await client.close()

    assert found == [None] * 30
    assert established == 3


def connections_to(address: str) -> int:
    """Count the connections from this process to an address of this machine."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return sum(row[2].endswith(port) and row[3] == "01" for row in rows)
