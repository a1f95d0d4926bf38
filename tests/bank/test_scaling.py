"""deploy/postgres/citus.sql against the schema as it is: Citus cannot be had here, its two functions are stood in for.

The stand-in refuses what Citus refuses (a unique index without the distribution column, a foreign key to a table that
lies elsewhere), so a migration that this script no longer fits fails here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from codebank.v1 import bank_pb2 as pb
from codebank.wire import new_id
from tests.bank import MERCHANT, calling, charge
from tests.conftest import BankServer, Databases

pytestmark = pytest.mark.anyio

SCRIPT = (Path(__file__).resolve().parents[2] / "deploy" / "postgres" / "citus.sql").read_text()
STAND_IN = """
create table distributed (relation regclass primary key, attribute text, colocated text);
create function create_reference_table(relation regclass) returns void language sql as $$
    insert into distributed values (relation, null, null)
$$;
create function create_distributed_table(
    relation regclass, attribute text, colocate_with text default 'default', shard_count int default 32
) returns void language plpgsql as $$
declare wrong text;
begin
    select c.relname into wrong from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = relation and i.indisunique and not exists (
        select from pg_attribute a
        where a.attrelid = relation and a.attname = attribute and a.attnum = any(i.indkey::int2[])
    );
    if found then raise exception 'unique index % of % does not hold %', wrong, relation, attribute; end if;
    select conname into wrong from pg_constraint
    where contype = 'f' and (conrelid = relation or confrelid = relation)
        and not exists (select from distributed d where d.relation = confrelid and d.attribute is null);
    if found then raise exception 'foreign key % leads to a table that is not distributed so', wrong; end if;
    insert into distributed values (relation, attribute, colocate_with);
end $$;
"""


async def test_the_script_distributes_every_table_and_loses_no_key(
    bank_server: BankServer, databases: Databases
) -> None:
    keys = [str(new_id()) for _ in range(3)]
    async with calling(bank_server.address) as bank:
        for key in keys[:2]:
            await bank.Authorize(charge(key), metadata=MERCHANT)
        await bank.Cancel(pb.CancelRequest(idempotency_key=keys[2]), metadata=MERCHANT)
    connection = await asyncpg.connect(databases.dsn("bank", "postgres"))
    change = connection.transaction()
    await change.start()
    try:
        before = {row["key"]: row for row in await connection.fetch("select * from idempotency_key")}
        await distribute(connection)

        placed = {row[0] for row in await connection.fetch("select relation::text from distributed")}
        tables = {
            row[0] for row in await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
        }
        assert placed == tables - {"distributed", "migration"}
        for key, row in before.items():
            kept = await connection.fetchrow("select * from idempotency_key where key = $1", key)
            assert kept is not None
            claim = await connection.fetchval(
                "select account_id from idempotency_claim where claim = $1", claim_of(row["merchant_id"], key)
            )
            assert kept["payment_id"] == row["payment_id"]
            # What was charged is led to its account; what was cancelled unseen is with the merchant.
            assert claim == row["account_id"]
            assert kept["account_id"] == (row["account_id"] or row["merchant_id"])
        cards = await connection.fetch("select account_id, card_id, fingerprint from card")
        for card in cards:
            found = await connection.fetchrow("select * from card_directory where lookup = $1", card["fingerprint"])
            assert found is not None
            assert (found["account_id"], found["card_id"]) == (card["account_id"], card["card_id"])
        assert await connection.fetchval("select count(*) from card_directory") >= 3 * len(cards)
    finally:
        # The schema of the others' tests stays as it is.
        await change.rollback()
        await connection.close()


async def test_the_stand_in_refuses_what_citus_refuses(databases: Databases) -> None:
    connection = await asyncpg.connect(databases.dsn("bank", "postgres"))
    change = connection.transaction()
    await change.start()
    try:
        await connection.execute(STAND_IN)
        with pytest.raises(asyncpg.RaiseError, match="card_token_key of card does not hold account_id"):
            await connection.execute("select create_distributed_table('card', 'account_id')")
    finally:
        await change.rollback()
        await connection.close()


async def distribute(connection: asyncpg.Connection) -> None:
    await connection.execute(STAND_IN)
    assert "create extension if not exists citus;" in SCRIPT
    await connection.execute(SCRIPT.replace("create extension if not exists citus;", ""))


def claim_of(merchant_id: UUID, key: str) -> bytes:
    return hashlib.sha256(merchant_id.bytes + key.encode()).digest()
