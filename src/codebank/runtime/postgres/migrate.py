"""Migrations: numbered SQL files of a room, each applied once, in order, in a transaction of its own.

The ledger of what was applied keeps each file's SHA-256, so that a file changed afterwards is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

import asyncpg

from codebank.errors import Code, CodebankError

#: Held while migrating, so that two processes do not migrate one database at the same time.
_LOCK: Final = 0x636F6465
_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
#: Which room's files make which database.
ROOM_OF: Final = {"bank": "bank", "checkout": "checkout", "statement": "statement", "log": "eventlog"}


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """The SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations_of(database: str) -> list[Migration]:
    """List a database's migrations in order; numbers must run 1, 2, 3 … without a gap."""
    folder = resources.files(f"codebank.{ROOM_OF[database]}") / "migrations"
    found = sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name)
    migrations = []
    for expected, item in enumerate(found, start=1):
        match = _NAME.fullmatch(item.name)
        if match is None or int(match[1]) != expected:
            raise CodebankError(Code.INTERNAL, f"migration {item.name} of {database} is out of order")
        migrations.append(Migration(expected, item.name, item.read_text(encoding="utf-8")))
    return migrations


async def migrate(connection: asyncpg.Connection, database: str) -> list[str]:
    """Bring a database up to date and return the names of the files applied. Safe to repeat."""
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(
            "create table if not exists migration (number int primary key, name text not null,"
            " digest text not null, applied_at timestamptz not null default now())"
        )
        applied = {row["number"]: row["digest"] for row in await connection.fetch("select * from migration")}
        fresh = [item for item in migrations_of(database) if not _is_applied(item, applied)]
        for item in fresh:
            async with connection.transaction():
                await connection.execute(item.sql)
                await connection.execute(
                    "insert into migration (number, name, digest) values ($1, $2, $3)",
                    item.number,
                    item.name,
                    item.digest,
                )
        return [item.name for item in fresh]
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _LOCK)


def _is_applied(item: Migration, applied: dict[int, str]) -> bool:
    digest = applied.get(item.number)
    if digest is not None and digest != item.digest:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"migration {item.name} was changed after it had been applied",
            hint="restore the file and write the change as a new migration",
        )
    return digest is not None
