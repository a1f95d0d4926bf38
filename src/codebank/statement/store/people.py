"""Cardholders, their sessions, and their wrong sign-ins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from codebank.runtime.postgres.pool import Connection
from codebank.wire import new_id


@dataclass(frozen=True, slots=True)
class Cardholder:
    """Who signs in."""

    cardholder_id: UUID
    name: str
    password_hash: str


async def add_cardholder(
    connection: Connection, email: str, name: str, password_hash: str, account_ids: Sequence[UUID]
) -> None:
    """Keep a cardholder with their accounts. Safe to repeat."""
    cardholder_id = await connection.fetchval(
        "insert into cardholder (cardholder_id, email, name, password_hash) values ($1, $2, $3, $4)"
        " on conflict (email) do update set name = excluded.name returning cardholder_id",
        new_id(),
        email,
        name,
        password_hash,
    )
    await connection.executemany(
        "insert into cardholder_account (cardholder_id, account_id, place) values ($1, $2, $3) on conflict do nothing",
        [(cardholder_id, account_id, place) for place, account_id in enumerate(account_ids, start=1)],
    )


async def find_cardholder(connection: Connection, email: str) -> Cardholder | None:
    """Find who has an e-mail."""
    row = await connection.fetchrow("select cardholder_id, name, password_hash from cardholder where email = $1", email)
    return Cardholder(**row) if row else None


async def add_session(connection: Connection, token_hash: bytes, cardholder_id: UUID, expires_at: datetime) -> None:
    """Keep a session, and forget those that are over."""
    await connection.execute("delete from session where expires_at < now()")
    await connection.execute(
        "insert into session (token_hash, cardholder_id, expires_at) values ($1, $2, $3)",
        token_hash,
        cardholder_id,
        expires_at,
    )


async def find_session(connection: Connection, token_hash: bytes, now: datetime, latest: datetime) -> Cardholder | None:
    """Find whose session a token is, while it lasts; `latest` is when one ends that begins now.

    One that would last longer is of a clock that was set back since: it ends then as well.
    """
    row = await connection.fetchrow(
        "select c.cardholder_id, c.name, c.password_hash, s.expires_at from session s"
        " join cardholder c using (cardholder_id) where s.token_hash = $1 and s.expires_at > $2",
        token_hash,
        now,
    )
    if row is None:
        return None
    if row["expires_at"] > latest:
        await connection.execute("update session set expires_at = $2 where token_hash = $1", token_hash, latest)
    return Cardholder(row["cardholder_id"], row["name"], row["password_hash"])


async def end_session(connection: Connection, token_hash: bytes) -> None:
    """Forget a session."""
    await connection.execute("delete from session where token_hash = $1", token_hash)


async def count_attempt(connection: Connection, who: str, now: datetime, window_seconds: int) -> tuple[int, datetime]:
    """Count one more attempt of somebody, and tell how many there were since when.

    A window that begins ahead of now is of a clock that was set back since: it begins now, so that it ends in time.
    """
    row = await connection.fetchrow(
        "insert into sign_in_attempt as a (who, attempts, since) values ($1, 1, $2) on conflict (who) do update set"
        " attempts = case when a.since < $3 then 1 else a.attempts + 1 end,"
        " since = case when a.since < $3 then $2 else least(a.since, $2) end returning attempts, since",
        who,
        now,
        now - timedelta(seconds=window_seconds),
    )
    assert row is not None
    return row["attempts"], row["since"]


async def forget_attempts(connection: Connection, who: str) -> None:
    """Forget somebody's attempts, because they signed in."""
    await connection.execute("delete from sign_in_attempt where who = $1", who)
