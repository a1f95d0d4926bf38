"""The outbox: events committed with the money and not yet on the log. Every statement that the relay makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import NewRecord
from codebank.events import key_of
from codebank.runtime.postgres.pool import Connection
from codebank.wire import TRACE_HEADER, event_headers

#: One relay ships at a time: whoever holds this lock of the bank's database. A session holds it, and what removes from
#: the outbox is that session: who loses it can ship nothing more, whatever he believes.
RELAY_LOCK: Final = 0x72656C61

_LEADER: Final = """
from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted and (l.classid, l.objid, l.objsubid) = (0, $1::oid, 1)
  and l.database = (select oid from pg_database where datname = current_database())
"""

#: What is removed is still seen by the rest of its statement.
_TAKE: Final = """
with gone as (delete from outbox where position = any($1::bigint[]))
select * from outbox where position <> all($1) order by position limit $2
"""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that waits."""

    position: int
    event_id: UUID
    record: NewRecord


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and for how long."""

    events: int
    age_milliseconds: int


@dataclass(frozen=True, slots=True)
class LeaderSign:
    """What shows that a leader lives: its session, and when that session last began or ended a statement."""

    pid: int
    session_began_at: datetime
    heard_at: datetime


async def take_lead(connection: Connection) -> bool:
    """Take the lead unless somebody has it; it lasts as long as the session."""
    return bool(await connection.fetchval("select pg_try_advisory_lock($1)", RELAY_LOCK))


async def leader_sign(connection: Connection) -> LeaderSign | None:
    """Give the leader's last sign of life; None where nobody leads, or the server does not show it."""
    row = await connection.fetchrow(
        f"select a.pid, a.backend_start, a.state_change {_LEADER} and a.state_change is not null", RELAY_LOCK
    )
    return LeaderSign(*row) if row is not None else None


async def depose(connection: Connection, sign: LeaderSign) -> bool:
    """End the session of a leader that gave no sign since; tell whether it was so."""
    ended = await connection.fetchval(
        f"select pg_terminate_backend(a.pid) {_LEADER} and (a.pid, a.backend_start, a.state_change) = ($2, $3, $4)",
        RELAY_LOCK,
        sign.pid,
        sign.session_began_at,
        sign.heard_at,
    )
    return bool(ended)


async def take_batch(connection: Connection, shipped: Sequence[OutboxRow], max_rows: int) -> list[OutboxRow]:
    """Forget rows that the log holds, and read the ones that come first of those that are left: one commit.

    Rows of one account come in the order of their sequence, because their writers held the account's lock. A row that
    is committed later with a lower position is of another account, and is read the next time: rows are forgotten by
    removing them, never by remembering how far one came.
    """
    rows = await connection.fetch(_TAKE, [row.position for row in shipped], max_rows)
    return [
        OutboxRow(row["position"], row["event_id"], NewRecord(key_of(row["account_id"]), row["value"], headers_of(row)))
        for row in rows
    ]


def headers_of(row: asyncpg.Record) -> dict[str, str]:
    """Write the headers of a row's record."""
    headers = event_headers(row["event_id"], row["type"], row["account_id"], row["sequence"], row["occurred_at"])
    # CloudEvents' distributed tracing extension, as Kafka's own tools read it: without the `ce_`.
    return headers | {TRACE_HEADER: row["traceparent"]} if row["traceparent"] else headers


async def remove_by_event(connection: Connection, event_ids: Sequence[UUID]) -> int:
    """Forget the rows of these events, if they are still there; tell how many were."""
    rows = await connection.fetch("delete from outbox where event_id = any($1) returning 1", event_ids)
    return len(rows)


async def backlog(connection: Connection) -> Backlog:
    """Tell how much waits."""
    row = await connection.fetchrow(
        "select count(*) as events, coalesce(extract(epoch from now() - min(created_at)) * 1000, 0)::bigint as age"
        " from outbox"
    )
    assert row is not None
    return Backlog(row["events"], max(0, row["age"]))
