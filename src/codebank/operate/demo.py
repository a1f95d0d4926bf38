"""The demo: its cardholder, and what is put into every room's database so that a first purchase can be made."""

from __future__ import annotations

from typing import Final

from codebank.bank.seed import seed_bank
from codebank.bank.test_cards import DEMO_ACCOUNT, DEMO_NAME
from codebank.bank.vault import Vault
from codebank.checkout.store.goods import seed_products
from codebank.runtime.postgres.pool import connect
from codebank.settings import Settings
from codebank.statement.sign_in import password_hasher
from codebank.statement.store.people import add_cardholder

#: How the demo's cardholder signs in; a demo has no secrets.
DEMO_EMAIL: Final = "ana@codebank.example"
DEMO_PASSWORD: Final = "codebank"  # noqa: S105


async def seed_all(settings: Settings) -> None:
    """Put the demo's data into every database. Safe to repeat."""
    bank = await connect(settings.database_url("bank"), role="seed")
    await seed_bank(bank, Vault(settings.vault_key), settings.merchant_key)
    await bank.close()
    checkout = await connect(settings.database_url("checkout"), role="seed")
    await seed_products(checkout)
    await checkout.close()
    statement = await connect(settings.database_url("statement"), role="seed")
    password_hash = password_hasher().hash(DEMO_PASSWORD)
    await add_cardholder(statement, DEMO_EMAIL, DEMO_NAME, password_hash, [DEMO_ACCOUNT])
    await statement.close()
