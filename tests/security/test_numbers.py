"""A card's number is nowhere but in the vault, and neither is anything that was made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from codebank.bank.drawing import ISSUER_NUMBER, Plastic, issuing
from codebank.bank.operation import OpenAccount
from codebank.bank.seed import carry_out
from codebank.bank.vault import Vault
from codebank.card import with_check_digit
from codebank.wire import new_id
from tests.checkout.shop import card_body
from tests.conftest import Databases
from tests.system import System, running_system

pytestmark = pytest.mark.anyio

EXPIRY = (2034, 12)
#: The bank's digest of a request, which no secret but the vault's key can be tried against.
MADE_BY_THE_VAULT = ".cause.digest"


def twins() -> tuple[str, str]:
    """Give two numbers that look alike once they are masked."""
    seen: dict[str, str] = {}
    for digits in range(10**6):
        number = with_check_digit(f"{ISSUER_NUMBER}{digits:07d}")
        if number[-4:] in seen:
            return seen[number[-4:]], number
        seen[number[-4:]] = number
    raise AssertionError


async def issue(system: System, numbers: tuple[str, str]) -> tuple[dict[str, str], Vault]:
    """Issue cards on one account; give their ids by their numbers."""
    vault = Vault(system.settings.vault_key)
    opens = OpenAccount(account_id=new_id(), holder_name="Twins", currency="BRL", limit_minor=10**7)
    first, second = numbers
    operations = [
        issuing(vault, Plastic(first, EXPIRY), opens.account_id, opens=opens),
        issuing(vault, Plastic(second, EXPIRY), opens.account_id),
    ]
    bank = await system.settings.databases.connect("bank")  # type: ignore[attr-defined]
    for operation in operations:
        await carry_out(bank, [operation])
    await bank.close()
    return {number: str(one.card.card_id) for number, one in zip(numbers, operations, strict=True)}, vault


def leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Take what a column holds apart, where it is a document."""
    if isinstance(value, bytes | str):
        try:
            value = json.loads(value)
        except ValueError:
            value = value.hex() if isinstance(value, bytes) else value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(f"{path}.{name}", inner)
    else:
        yield path, str(value)


async def facts_of(databases: Databases, names: set[str]) -> set[tuple[str, str]]:
    """Give all that any table but the bank's says in the rows that name a purchase: column and value."""
    found: set[tuple[str, str]] = set()
    for database in sorted({*databases.names} - {"bank"}):
        connection = await databases.connect(database)
        for row in await connection.fetch("select tablename from pg_tables where schemaname = 'public'"):
            table = row["tablename"]
            for one in await connection.fetch(f'select * from "{table}"'):
                told = {leaf for column, value in one.items() for leaf in leaves(f"{database}.{table}.{column}", value)}
                if any(name in value for _, value in told for name in names):
                    found |= told
        await connection.close()
    return found


async def test_trap_c13_what_is_kept_outside_the_vault_tells_cards_that_look_alike_apart_by_their_ids_only(
    databases: Databases,
) -> None:
    """Whatever is made of a number, with whichever key, is the same for one card and another for its twin."""
    numbers = first, second = twins()
    async with running_system(databases) as system:
        ids, vault = await issue(system, numbers)
        told = []
        async with system.shop() as shop:
            for number in (first, first, second):
                card = card_body(number, cvv=vault.cvv(number, *EXPIRY), expiry_year=EXPIRY[0], expiry_month=EXPIRY[1])
                body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card}
                answer = await shop.post("/api/orders", json=body, headers={"idempotency-key": new_id().hex})
                assert answer.json()["status"] == "paid", answer.text
                told.append({answer.json()["id"], answer.json()["payment_id"]})
        await system.proven()

    once, again, other = [await facts_of(databases, names) for names in told]

    of_the_card = {
        (column, value) for column, value in (once & again) - other if not column.endswith(MADE_BY_THE_VAULT)
    }
    assert {value for _, value in of_the_card} == {ids[first]}
    assert {database.partition(".")[0] for database, _ in once} >= {"checkout", "statement", "log"}
