"""The bank's own statement without the bank: what `bench` compares a stream with, and what fills a database."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import uvloop

from codebank.bank.deciding import Deciding, Known
from codebank.bank.operation import Authorize, Key
from codebank.bank.state import CardPlace
from codebank.bank.store.reading import read_accounts, read_merchants
from codebank.bank.store.writing import write
from codebank.bank.test_cards import DEMO_MERCHANT
from codebank.lab.load import BATCH, Target, Turn, timed
from codebank.runtime.postgres.pool import connect
from codebank.wire import new_id, utc_now

#: Accounts that are charged in turn while a database is filled: more would not fit into memory.
_ACCOUNTS_AT_ONCE: Final = 10_000
_CARDS: Final = "select card_id, account_id, token from card"


def sql(target: Target, seconds: int) -> Turn:
    """Write the same rows with the same statement, without gRPC, and decided before the clock starts."""
    return timed(_sql(target, seconds))


async def _sql(target: Target, seconds: int) -> Turn:
    connection: Any = await connect(target.bank_dsn, role="bench")
    try:
        rows = await connection.fetch(f"{_CARDS} where token = any($1)", [card[-1] for card in target.cards])
        known = await _known(connection, rows)
        microseconds, taken = 0, []
        while microseconds < seconds * 1_000_000:
            taken.append(await _write_batch(connection, known))
            microseconds += taken[-1]
    finally:
        await connection.close()
    return Turn(len(taken) * BATCH, microseconds, sorted(taken))


def fill(target: Target, payments: int) -> int:
    """Write so many payments, spread over all accounts, and give how many there are."""
    return uvloop.run(_fill(target, payments))


async def _fill(target: Target, payments: int) -> int:
    connection: Any = await connect(target.bank_dsn, role="bench")
    written = 0
    try:
        rows = await connection.fetch(f"{_CARDS} order by card_id")
        for first in range(0, len(rows), _ACCOUNTS_AT_ONCE):
            known = await _known(connection, rows[first : first + _ACCOUNTS_AT_ONCE])
            # What is to be there once these accounts have their share.
            while written < payments * min(len(rows), first + _ACCOUNTS_AT_ONCE) // len(rows):
                await _write_batch(connection, known)
                written += BATCH
    finally:
        await connection.close()
    return written


async def _known(connection: Any, rows: Sequence[Any]) -> Known:
    places: dict[bytes | str | UUID, CardPlace] = {
        row["token"]: CardPlace(row["account_id"], row["card_id"]) for row in rows
    }
    merchants = await read_merchants(connection, [DEMO_MERCHANT])
    everything = [row["account_id"] for row in rows], [row["card_id"] for row in rows]
    return Known(places, merchants, *await read_accounts(connection, *everything))


async def _write_batch(connection: Any, known: Known) -> int:
    """Write a batch of charges, and give its microseconds.

    What Python decides and builds is left out of the time; what PostgreSQL is sent is the same.
    """
    deciding, tokens = Deciding(known, utc_now(), new_id), list(known.places)
    for _ in range(BATCH):
        token = tokens[random.randrange(len(tokens))]  # noqa: S311 (a load)
        assert isinstance(token, str)
        deciding.answer(_charge(token))
    began = time.perf_counter_ns()
    await write(connection, deciding.writes)
    return (time.perf_counter_ns() - began) // 1000


def _charge(token: str) -> Authorize:
    return Authorize(
        key=Key(DEMO_MERCHANT, f"bench-sql-{new_id().hex}", bytes(32)),
        payment_id=new_id(),
        merchant_id=DEMO_MERCHANT,
        amount_minor=100,
        currency="BRL",
        description="Bench",
        parcelas=1,
        card_masked="••••",
        card_brand="card",
        handle=token,
        expiry=None,
        cvv_fits=None,
    )
