"""Databases and their roles, made on a server by its administrator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from codebank.runtime.postgres.driver import address


async def prepare_databases(
    superuser_dsn: str, databases: Sequence[str], reader: str, passwords: Mapping[str, str] | None = None
) -> None:
    """Make each database with an owner role of its name, and a reader of all that writes none. Safe to repeat.

    Roles get the passwords given; where the server trusts its socket they need none.
    """
    connection = await asyncpg.connect(**address(superuser_dsn))
    try:
        # Two preparations at once take turns, so that neither stumbles over what the other has just made.
        await connection.execute("select pg_advisory_lock(hashtext('codebank.prepare_databases'))")
        roles = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
        present = {row["datname"] for row in await connection.fetch("select datname from pg_database")}
        for role in (*databases, reader):
            if role not in roles:
                await connection.execute(f'create role "{role}" login')
            if passwords and role in passwords:
                # No parameters in such a statement, so the server itself quotes the text.
                quoted = await connection.fetchval("select quote_literal($1::text)", passwords[role])
                await connection.execute(f'alter role "{role}" password {quoted}')
        await connection.execute(f'grant pg_read_all_data to "{reader}"')
        for database in databases:
            if database not in present:
                await connection.execute(f'create database "{database}" owner "{database}"')
            await connection.execute(f'revoke all on database "{database}" from public')
            await connection.execute(f'grant connect on database "{database}" to "{reader}"')
    finally:
        await connection.close()
