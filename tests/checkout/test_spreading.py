"""Several banks and no mesh: the checkout takes turns among them, and does without one that goes."""

from __future__ import annotations

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


async def test_calls_are_spread_over_every_bank_and_none_is_lost_with_one_of_them(settings: Settings) -> None:
    await seed(settings)
    async with serving_bank(settings) as first, serving_bank(settings) as second:
        async with serving_bank(settings) as third:
            banks = (first, second, third)
            # What a headless service's name gives: an address for each replica.
            every = "ipv4:" + ",".join(bank.address for bank in banks)
            client = BankClient(every, TEST_MERCHANT_KEY, 5, Telemetry(METRICS))
            while not all(answered(bank) for bank in banks):
                assert await client.find(new_id()) is None
            before = [answered(bank) for bank in banks]
            for _ in range(30):
                assert await client.find(new_id()) is None

            # By turns: none has more than its share.
            assert [answered(bank) - count for bank, count in zip(banks, before, strict=True)] == [10, 10, 10]
        for _ in range(10):
            assert await client.find(new_id()) is None
        await client.close()
    assert answered(first) + answered(second) + answered(third) == sum(before) + 40
