"""A state folder of the release before: taken from a running system, kept as rows, laid out again."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import asyncpg

from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.unprivileged import make_folder
from codebank.runtime.postgres.migrate import migrations_of
from codebank.runtime.postgres.provision import prepare_databases
from codebank.settings import DATABASES, READER_ROLE

KEPT: Final = Path(__file__).resolve().parents[1] / "data" / "state-of-the-release-before.zip"
#: What `up` looks for beside the databases.
FILES: Final = ("secrets.json", "log.txt")
#: As the release before made it; the room's own files make the rest.
_LEDGER: Final = (
    "create table migration (number int primary key, name text not null, digest text not null,"
    " applied_at timestamptz not null default now())"
)
_TABLES: Final = (
    "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
    " and not relispartition order by 1"
)
_IDENTITIES: Final = (
    "select table_name, column_name from information_schema.columns"
    " where table_schema = 'public' and is_identity = 'YES'"
)
#: The shop's orders by a name that says how each was left.
ORDERS: Final = "orders.json"
#: Every file has this date, so that the same rows make the same bytes.
_DATE: Final = (2026, 1, 1, 0, 0, 0)


async def keep(state: Path, dsns: Mapping[str, str], orders: Mapping[str, Any], target: Path = KEPT) -> None:
    """Write down the files and every row of a state folder whose databases run, and which orders were made."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as kept:
        _write(kept, ORDERS, json.dumps(orders, ensure_ascii=False, indent=1).encode())
        for name in FILES:
            _write(kept, name, (state / name).read_bytes())
        for database in DATABASES:
            connection = await asyncpg.connect(dsns[database])
            for row in await connection.fetch(_TABLES):
                rows = io.BytesIO()
                table = f'"{row["relname"]}"'
                await connection.copy_from_query(
                    f"select * from {table} order by 1, 2", output=rows, format="csv", header=True
                )
                _write(kept, f"{database}/{row['relname']}.csv", rows.getvalue())
            await connection.close()


def _write(kept: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    kept.writestr(entry, content)


def kept_orders(source: Path = KEPT) -> dict[str, Any]:
    """Read which orders were made, by their names."""
    with zipfile.ZipFile(source) as kept:
        orders: dict[str, Any] = json.loads(kept.read(ORDERS))
    return orders


async def lay_out(state: Path, source: Path = KEPT) -> None:
    """Make the state folder again, as the release before left it."""
    make_folder(state)
    with zipfile.ZipFile(source) as kept, EmbeddedPostgres(state / "postgres", durable=False) as server:
        for name in FILES:
            (state / name).write_bytes(kept.read(name))
            (state / name).chmod(0o600)
        await prepare_databases(server.dsn("postgres", "postgres"), list(DATABASES), READER_ROLE)
        for database in DATABASES:
            tables = {Path(name).stem: kept.read(name) for name in kept.namelist() if name.startswith(f"{database}/")}
            await _make_tables(server.dsn(database, database), database, tables["migration"].decode())
            await _fill(server.dsn(database, "postgres"), tables)


async def _make_tables(dsn: str, database: str, ledger: str) -> None:
    """Apply the files that the ledger names, as their owner, and no later ones."""
    owner = await asyncpg.connect(dsn)
    await owner.execute(_LEDGER)
    for item in migrations_of(database):
        if f",{item.name}," in ledger:
            await owner.execute(item.sql)
    await owner.close()


async def _fill(dsn: str, tables: Mapping[str, bytes]) -> None:
    keeper = await asyncpg.connect(dsn)
    # Rows come as they are: no trigger, and no order that references would ask for.
    await keeper.execute("set session_replication_role = replica")
    for table, rows in tables.items():
        await keeper.execute(f'delete from "{table}"')
        columns = rows.split(b"\n", 1)[0].decode().strip().split(",")
        await keeper.copy_to_table(
            table, source=io.BytesIO(rows), columns=[name.strip('"') for name in columns], format="csv", header=True
        )
    for table, column in await keeper.fetch(_IDENTITIES):
        await keeper.execute(
            f"select setval(pg_get_serial_sequence('{table}', '{column}'),"
            f' coalesce((select max("{column}") from "{table}"), 0) + 1, false)'
        )
    await keeper.close()
