"""What the bank asks for on every payment is found by an index, however its plan came about."""

from __future__ import annotations

import re

import asyncpg
import pytest

from codebank.bank.app import PLANS
from codebank.bank.store import reading, writing

pytestmark = pytest.mark.anyio
#: Of rows that are given, or made in the statement itself, there is nothing to look up.
_WHOLE_TABLE = re.compile(r"Seq Scan on (\w+)|Hash Join|Merge Join")
STATEMENTS = {
    "locate": reading._LOCATE,
    "keys": reading._READ_KEYS,
    "accounts": reading._READ_ACCOUNTS,
    "state": reading._READ_STATE,
    "payments": reading._READ_PAYMENTS,
    "locks": reading._LOCK_ACCOUNTS,
    **{part: writing._statement((part,)) for part in writing._PARTS},
}


async def plan_of(books: asyncpg.Connection, statement: str) -> str:
    """Give the plan that is made for a statement whatever its values, once the server knows that nothing is there."""
    await books.execute("vacuum")
    await books.execute(f"set plan_cache_mode = force_generic_plan; prepare asked as {statement}")
    values = ", ".join(["null"] * max(int(number) for number in re.findall(r"\$(\d+)", statement)))
    return "\n".join(row[0] for row in await books.fetch(f"explain execute asked({values})"))


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_plan_that_was_made_while_the_tables_were_empty_reads_no_table_whole(
    books: asyncpg.Connection, name: str
) -> None:
    for setting, value in PLANS.items():
        await books.execute("select set_config($1, $2, false)", setting, value)

    plan = await plan_of(books, STATEMENTS[name])

    assert not _WHOLE_TABLE.findall(plan), plan


async def test_without_these_settings_the_keys_would_be_read_whole(books: asyncpg.Connection) -> None:
    plan = await plan_of(books, reading._READ_KEYS)

    assert _WHOLE_TABLE.findall(plan), plan
