"""A shop on a bank of its own, for whatever is asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from codebank.settings import Settings
from tests.checkout.shop import Browsers, open_shop
from tests.conftest import BankServer, settings_for


@pytest.fixture
def shop_settings(bank_server: BankServer) -> Settings:
    return settings_for(bank_server.settings.databases, bank_address=bank_server.address)  # type: ignore[attr-defined]


@pytest.fixture
async def browsers(shop_settings: Settings) -> AsyncIterator[Browsers]:
    async with open_shop(shop_settings) as made:
        yield made
