"""Every numbered file of every room, applied to rows that were there before it; those released never change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from codebank.events import key_of
from codebank.machine.postgres import EmbeddedPostgres
from codebank.runtime.postgres.migrate import ROOM_OF, migrate, migrations_of
from codebank.runtime.postgres.pool import connect
from codebank.statement.excuse import Excuse
from codebank.statement.store.dead_letters import read_excuses

pytestmark = pytest.mark.anyio

#: SHA-256 of each file that a release carried: databases hold them, and refuse a file that has another.
RELEASED: Final = {
    ("bank", "0001_bank.sql"): "144153f2db8afb0c8713378cb3089e95fe125a7857e0fd64f1542ffaa6d255e6",
    ("bank", "0002_traces.sql"): "faa0a5e5f1566ec77468cd02754750e54fadbda3907e76c97e2e296d70dd6a59",
    ("checkout", "0001_checkout.sql"): "e43c223f490c8f68c123a9a912b455cf3dff253439ab88c2450019097b2efb31",
    ("statement", "0001_statement.sql"): "baf2e912c465079199545cd8cd23725a8f5191e06a2a7cbba2866a9e7ba095b7",
    ("statement", "0002_letters_and_freshness.sql"): "6b624f7a0ece94beb41739448436da89f062f1d05e4bf103e4d3eea280120e9b",
    ("log", "0001_log.sql"): "69d3e2299a4ac761c0cecd11358e75ac0d4f3851111b0a775f37e9ff9c11abc5",
}
#: How the test of a file is named: test_bank_0003_and_what_it_shows.
_NAMED: Final = re.compile(r"def test_([a-z]+)_(\d{4})_")
SHOP, CARDHOLDER, CARD = (UUID(int=number) for number in (0x10, 1, 0xC))
STATUSES: Final = ("approved", "declined", "refunded")
THEN, LATER = datetime(2026, 11, 20, 12, 0, tzinfo=UTC), datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
TRACE = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"

_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def migrated(server: EmbeddedPostgres, database: str, last: int) -> AsyncIterator[asyncpg.Connection]:
    """Give a database of its own, brought up to the file numbered `last` and no further."""
    keeper = await connect(server.dsn("postgres", "postgres"))
    name = f"migrated_{database}_{next(_numbers)}"
    await keeper.execute(f'create database "{name}" owner "{database}"')
    connection = await connect(server.dsn(name, database))
    try:
        for item in migrations_of(database)[:last]:
            await connection.execute(item.sql)
        yield connection
    finally:
        await connection.close()
        await keeper.execute(f'drop database "{name}"')
        await keeper.close()


async def apply(connection: asyncpg.Connection, database: str, number: int) -> None:
    """Apply one file."""
    await connection.execute(migrations_of(database)[number - 1].sql)


def test_files_that_a_release_carried_are_as_they_were() -> None:
    there = {(database, item.name): item.digest for database in ROOM_OF for item in migrations_of(database)}

    assert {name: there.get(name) for name in RELEASED} == RELEASED


def test_every_file_has_a_test_of_its_rows() -> None:
    tested = set(_NAMED.findall(Path(__file__).read_text(encoding="utf-8")))

    files = {(database, f"{item.number:04}") for database in ROOM_OF for item in migrations_of(database)}
    assert sorted(files - tested) == []


async def test_a_file_is_applied_once_however_many_migrate_at_the_same_time(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 0) as connection:
        name = await connection.fetchval("select current_database()")
        others = [await connect(postgres.dsn(name, "bank")) for _ in range(2)]
        applied = await asyncio.gather(*(migrate(one, "bank") for one in others))
        for one in others:
            await one.close()

        again = await migrate(connection, "bank")

    assert sorted(map(len, applied)) == [0, len(migrations_of("bank"))]
    assert again == []


async def add_account(bank: asyncpg.Connection) -> None:
    await bank.execute(
        "insert into account (account_id, holder_name, currency, limit_minor, used_minor, created_at)"
        " values ($1, 'Ana', 'BRL', 10000, 700, $2)",
        CARDHOLDER,
        THEN,
    )


async def add_payment(bank: asyncpg.Connection, number: int, status: str, key: str) -> UUID:
    """Write a payment with its key, as the first release did."""
    payment_id = UUID(int=0xF0 + number)
    await bank.execute(
        "insert into payment (account_id, payment_id, merchant_id, idempotency_key, status, decline_code,"
        " amount_minor, currency, refunded_minor, parcelas, description, merchant_name, merchant_category, card_id,"
        " card_masked, card_brand, created_at, updated_at) values ($1, $2, $3, $4, $5, $6, 700, 'BRL', $7, 1, 'coffee',"
        " 'Loja', '5311', $8, '•••• 0018', 'visa', $9, $10)",
        CARDHOLDER,
        payment_id,
        SHOP,
        key,
        status,
        "limit_exceeded" if status == "declined" else None,
        700 if status == "refunded" else 0,
        CARD,
        THEN,
        LATER if status == "refunded" else THEN,
    )
    await bank.execute(
        "insert into idempotency_key (merchant_id, key, request_hash, account_id, payment_id, created_at)"
        " values ($1, $2, '\\x01', $3, $4, $5)",
        SHOP,
        key,
        CARDHOLDER,
        payment_id,
        THEN,
    )
    return payment_id


async def add_entry(bank: asyncpg.Connection, number: int, payment_id: UUID, *, back: bool = False) -> None:
    sides = [("receivable", CARDHOLDER), ("payable", SHOP)]
    (debit_kind, debit_id), (credit_kind, credit_id) = reversed(sides) if back else sides
    await bank.execute(
        "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id, amount_minor,"
        " currency, payment_id, created_at, hash) values ($1, $2, $3, $4, $5, $6, 700, 'BRL', $7, $8, $9)",
        CARDHOLDER,
        number,
        debit_kind,
        debit_id,
        credit_kind,
        credit_id,
        payment_id,
        THEN,
        bytes(32),
    )


async def test_bank_0001_keeps_a_key_for_ever_and_an_entry_as_it_is(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 0) as bank:
        await apply(bank, "bank", 1)

        await add_account(bank)
        payment_id = await add_payment(bank, 1, "approved", "first")
        await add_entry(bank, 1, payment_id)
        with pytest.raises(asyncpg.RaiseError, match="never changed"):
            await bank.execute("update entry set amount_minor = 1")
        with pytest.raises(asyncpg.UniqueViolationError):
            await bank.execute(
                "insert into idempotency_key (merchant_id, key, created_at) values ($1, 'first', $2)", SHOP, THEN
            )
        with pytest.raises(asyncpg.CheckViolationError):
            await bank.execute("update account set used_minor = limit_minor + 1")

        row = await bank.fetchrow("select sequence, entry_number, status, kind from account")

    assert row is not None
    assert tuple(row) == (0, 0, "open", "cardholder")


async def test_bank_0002_leaves_events_that_wait_without_a_trace(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 1) as bank:
        columns, values = "account_id, sequence, event_id, type, occurred_at, value", "$1, $2, $1, 't', $3, ''"
        await bank.execute(f"insert into outbox ({columns}) values ({values})", CARDHOLDER, 1, THEN)

        await apply(bank, "bank", 2)

        traced = f"insert into outbox ({columns}, traceparent) values ({values}, $4)"
        await bank.execute(traced, CARDHOLDER, 2, THEN, TRACE)
        rows = await bank.fetch("select sequence, traceparent from outbox order by position")

    assert [tuple(row) for row in rows] == [(1, None), (2, TRACE)]


async def test_bank_0003_says_which_keys_were_cancelled_and_derives_nothing_else(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 2) as bank:
        await add_account(bank)
        kept = {status: await add_payment(bank, number, status, status) for number, status in enumerate(STATUSES)}
        await add_entry(bank, 1, kept["approved"])
        await add_entry(bank, 2, kept["refunded"])
        await add_entry(bank, 3, kept["refunded"], back=True)
        await bank.execute(
            "insert into idempotency_key (merchant_id, key, created_at) values ($1, 'tombstone', $2)", SHOP, THEN
        )

        await apply(bank, "bank", 3)

        keys = await bank.fetch(
            "select key, cancelled_at, kind, hash_version, answer, card_id from idempotency_key order by key"
        )
        payments = await bank.fetch("select status, version, captured_minor from payment order by status")
        entries = await bank.fetch("select kind, payment_id from entry order by entry_number")
        version = await bank.fetchval("select version from account")

    assert [tuple(row) for row in keys] == [
        ("approved", None, None, None, None, None),
        ("declined", None, None, None, None, None),
        ("refunded", LATER, None, None, None, None),
        ("tombstone", THEN, None, None, None, None),
    ]
    assert [tuple(row) for row in payments] == [(status, None, None) for status in STATUSES]
    assert [row["kind"] for row in entries] == [None, None, None]
    assert version == 0


async def test_bank_0003_counts_what_the_release_before_writes_without_counting(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 3) as bank:
        await add_account(bank)
        await bank.execute(
            "insert into merchant (merchant_id, name, category_code, api_key_hash) values ($1, 'Loja', '5311', $2)",
            SHOP,
            bytes(32),
        )
        await add_payment(bank, 1, "approved", "its own")
        counted = await add_payment(bank, 2, "approved", "ours")
        await bank.execute("update payment set version = 1, captured_minor = 700 where payment_id = $1", counted)

        await bank.execute("update account set sequence = sequence + 1, used_minor = used_minor - 700")
        await bank.execute("update merchant set status = 'closed'")
        await bank.execute("update payment set status = 'refunded', refunded_minor = 700, updated_at = $1", LATER)
        uncounted = await bank.fetchrow("select a.version, m.version from account a, merchant m")
        payments = await bank.fetch("select version from payment order by payment_id")
        keys = await bank.fetch("select cancelled_at from idempotency_key")
        await bank.execute("update account set version = version + 1, sequence = sequence + 1")
        await bank.execute("update payment set version = version + 1 where payment_id = $1", counted)
        ours = await bank.fetchrow(
            "select a.version, p.version from account a, payment p where p.payment_id = $1", counted
        )

    assert uncounted is not None
    assert ours is not None
    assert tuple(uncounted) == (1, 1)
    # Null stays null, and is derived: only what this release began to count goes on.
    assert [row["version"] for row in payments] == [None, 2]
    assert [row["cancelled_at"] for row in keys] == [LATER, LATER]
    assert tuple(ours) == (2, 3)


async def test_bank_0004_counts_a_card_that_is_changed_without_counting(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 3) as bank:
        await add_account(bank)
        await bank.execute(
            "insert into card (account_id, card_id, token, fingerprint, number_sealed, masked, brand, expiry_month,"
            " expiry_year, created_at) values ($1, $2, 't', $3, '', '•••• 0018', 'visa', 12, 2034, $4)",
            CARDHOLDER,
            CARD,
            bytes(32),
            THEN,
        )

        await apply(bank, "bank", 4)

        kept = await bank.fetchrow("select version, status from card")
        await bank.execute("update card set status = 'blocked'")
        by_hand = await bank.fetchval("select version from account")
        # As the release before does it: both in one statement.
        await bank.execute("with c as (update card set status = 'active') update account set sequence = sequence + 1")
        before = await bank.fetchval("select version from account")
        await bank.execute("with c as (update card set status = 'lost', version = 9) update account set version = 9")
        ours = await bank.fetchval("select version from account")
        await bank.execute("delete from card")
        gone = await bank.fetchval("select version from account")

    assert kept is not None
    assert tuple(kept) == (0, "active")
    assert by_hand == 1
    assert before == 3
    assert (ours, gone) == (9, 10)


async def test_bank_0003_refuses_rows_that_contradict_themselves(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "bank", 3) as bank:
        await add_account(bank)
        payment_id = await add_payment(bank, 1, "approved", "key")

        with pytest.raises(asyncpg.CheckViolationError, match="tombstone_is_empty"):
            await bank.execute("update idempotency_key set request_hash = null")
        with pytest.raises(asyncpg.CheckViolationError, match='"payment"'):
            await bank.execute("update payment set captured_minor = amount_minor + 1, version = 1")
        with pytest.raises(asyncpg.CheckViolationError, match="kind_has_its_direction"):
            await bank.execute(
                "insert into entry (account_id, entry_number, debit_kind, debit_id, credit_kind, credit_id,"
                " amount_minor, currency, payment_id, created_at, hash, kind)"
                " values ($1, 1, 'receivable', $1, 'payable', $2, 700, 'BRL', $3, $4, $5, 'refund')",
                CARDHOLDER,
                SHOP,
                payment_id,
                THEN,
                bytes(32),
            )


async def test_checkout_0001_takes_one_order_for_a_key(postgres: EmbeddedPostgres) -> None:
    add = (
        "insert into orders (order_id, idempotency_key, request_hash, status, total_minor, currency, parcelas,"
        " card_masked, card_brand, created_at) values ($1, 'api:1', '', $2, 700, 'BRL', 1, '•••• 0018', 'visa', $3)"
    )
    async with migrated(postgres, "checkout", 0) as checkout:
        await apply(checkout, "checkout", 1)

        await checkout.execute(add, UUID(int=1), "pending", THEN)
        with pytest.raises(asyncpg.UniqueViolationError):
            await checkout.execute(add, UUID(int=2), "pending", THEN)
        with pytest.raises(asyncpg.CheckViolationError):
            await checkout.execute("update orders set status = 'paid', settled_at = created_at")


async def add_letter(statement: asyncpg.Connection, offset: int) -> None:
    await statement.execute(
        'insert into dead_letter (topic, partition, "offset", reason, key, value, headers)'
        " values ('codebank.payments', 0, $1, 'nobody could read it', '', '', '{}')",
        offset,
    )


async def test_statement_0001_keeps_a_line_and_a_letter_once(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "statement", 0) as statement:
        await apply(statement, "statement", 1)

        await add_letter(statement, 1)
        with pytest.raises(asyncpg.UniqueViolationError):
            await add_letter(statement, 1)


async def test_checkout_0002_has_orders_of_before_asked_about_once(postgres: EmbeddedPostgres) -> None:
    order = (
        "insert into orders (order_id, idempotency_key, request_hash, status, total_minor, currency, parcelas,"
        " card_masked, card_brand, created_at) values ($1, $2, '', 'pending', 700, 'BRL', 1, '•••• 0018', 'visa', $3)"
    )
    async with migrated(postgres, "checkout", 1) as checkout:
        await checkout.execute(order, UUID(int=1), "api:1", THEN)

        await apply(checkout, "checkout", 2)

        # As the release before goes on to write them.
        await checkout.execute(order, UUID(int=2), "api:2", THEN)
        tries = await checkout.fetch("select tries from orders order by order_id")

    assert [row["tries"] for row in tries] == [1, 1]


async def test_checkout_0003_keeps_nothing_that_was_made_of_a_number(postgres: EmbeddedPostgres) -> None:
    order = (
        "insert into orders (order_id, idempotency_key, request_hash, status, total_minor, currency, parcelas,"
        " card_masked, card_brand, created_at)"
        " values ($1, $2, sha256('4000001000000018'), 'pending', 700, 'BRL', 1, '•••• 0018', 'visa', $3)"
    )
    async with migrated(postgres, "checkout", 2) as checkout:
        await checkout.execute(order, UUID(int=1), "api:1", THEN)

        await apply(checkout, "checkout", 3)

        # As the release before goes on to write them.
        await checkout.execute(order, UUID(int=2), "api:2", THEN)
        await checkout.execute("update orders set request_hash = sha256('x')")
        kept = await checkout.fetch("select request_hash, card_expiry from orders")

    assert [tuple(row) for row in kept] == [(b"", None)] * 2


async def test_statement_0002_has_letters_of_before_shipped_and_replayed_yet(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "statement", 1) as statement:
        await add_letter(statement, 1)

        await apply(statement, "statement", 2)

        await statement.execute("insert into freshness (partition, caught_up_at) values (0, $1)", THEN)
        letter = await statement.fetchrow('select "offset", shipped_at, replayed_at from dead_letter')

    assert letter is not None
    assert tuple(letter) == (1, None, None)


async def test_statement_0003_takes_any_status_and_leaves_what_was_put_aside_its_header(
    postgres: EmbeddedPostgres,
) -> None:
    line = (
        "insert into line (account_id, payment_id, sequence, first_sequence, merchant_name, merchant_category,"
        " description, amount_minor, currency, parcelas, status, refunded_minor, card_masked, available_minor,"
        " occurred_at, local_day, search_text)"
        " values ($1, $2, 1, 1, 'Loja', '5311', '', 700, 'BRL', 1, $3, 0, '', 0, $4, $4::timestamptz::date, '')"
    )
    async with migrated(postgres, "statement", 2) as statement:
        for number, status in enumerate(STATUSES):
            await statement.execute(line, CARDHOLDER, UUID(int=number), status, THEN)
        await statement.execute(
            'insert into dead_letter (topic, partition, "offset", reason, key, value, headers)'
            " values ('codebank.payments', 0, 1, 'torn', $1, '', '{\"ce_sequence\": \"7\"}')",
            key_of(CARDHOLDER),
        )

        await apply(statement, "statement", 3)

        await statement.execute(line, CARDHOLDER, UUID(int=9), "in_dispute", THEN)
        statuses = await statement.fetch("select status from line order by payment_id")
        excuses = await read_excuses(statement, [CARDHOLDER])

    assert [row["status"] for row in statuses] == [*STATUSES, "in_dispute"]
    assert excuses == {CARDHOLDER: [Excuse(7)]}


async def test_statement_0004_lets_a_statement_take_back_what_it_wrote(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "statement", 3) as connection:
        await connection.execute("insert into position (topic, partition, next_offset) values ('t', 1, 7)")
        await apply(connection, "statement", 4)

        with pytest.raises(asyncpg.PostgresError) as refused:
            await connection.execute(
                "with moved as (update position set next_offset = 9 returning 1) select refuse_moved() from moved"
            )

        assert refused.value.sqlstate == "CB001"
        assert await connection.fetchval("select next_offset from position") == 7


async def test_statement_0005_has_letters_of_before_undecided(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "statement", 4) as statement:
        await add_letter(statement, 1)

        await apply(statement, "statement", 5)

        letter = await statement.fetchrow('select "offset", dismissed_at, dismissed_because from dead_letter')
        of_search = "insert into search_letter values ('t', 0, 1, 'why', '', '', '{}', now())"
        await statement.execute(of_search)
        with pytest.raises(asyncpg.UniqueViolationError):
            await statement.execute(of_search)
        decided = await statement.fetchrow("select replayed_at, dismissed_at, dismissed_because from search_letter")

    assert tuple(letter or ()) == (1, None, None)
    assert tuple(decided or ()) == (None, None, None)


async def test_log_0001_has_twelve_partitions_of_each_topic_and_nothing_on_them(postgres: EmbeddedPostgres) -> None:
    async with migrated(postgres, "log", 0) as log:
        await apply(log, "log", 1)

        ends = await log.fetch("select topic, count(*), sum(next_offset)::int from partition_end group by 1 order by 1")
        await log.execute(
            'insert into record (topic, partition, "offset", key, value, headers)'
            " select 'codebank.payments', number, 0, '', '', '{}' from generate_series(0, 11) as number"
        )

    assert [tuple(row) for row in ends] == [("codebank.dead-letters", 12, 0), ("codebank.payments", 12, 0)]
