"""The outbox: events committed with the money and not yet on the log. Every statement that the relay makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from codebank.eventlog.log import NewRecord
from codebank.events import key_of
from codebank.runtime.postgres.pool import Connection
from codebank.wire import TRACE_HEADER, event_headers

#: One relay ships at a time: whoever holds this lock of the bank's database.
RELAY_LOCK: Final = 0x72656C61


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """An event that waits."""

    account_id: UUID
    sequence: int
    event_id: UUID
    record: NewRecord


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much waits, and for how long."""

    events: int
    age_milliseconds: int


async def read_batch(connection: Connection, max_rows: int) -> list[OutboxRow]:
    """Read the rows that came first.

    Rows of one account come in the order of their sequence, because their writers held the account's lock. A row that
    is committed later with a lower position is of another account, and is read the next time: rows are forgotten by
    removing them, never by remembering how far one came.
    """
    rows = await connection.fetch("select * from outbox order by position limit $1", max_rows)
    return [
        OutboxRow(
            row["account_id"],
            row["sequence"],
            row["event_id"],
            NewRecord(key_of(row["account_id"]), row["value"], headers_of(row)),
        )
        for row in rows
    ]


def headers_of(row: asyncpg.Record) -> dict[str, str]:
    """Write the headers of a row's record."""
    headers = event_headers(row["event_id"], row["type"], row["account_id"], row["sequence"], row["occurred_at"])
    # CloudEvents' distributed tracing extension, as Kafka's own tools read it: without the `ce_`.
    return headers | {TRACE_HEADER: row["traceparent"]} if row["traceparent"] else headers


async def remove(connection: Connection, rows: Sequence[OutboxRow]) -> None:
    """Forget rows that the log holds."""
    await connection.execute(
        "delete from outbox where (account_id, sequence) in (select * from unnest($1::uuid[], $2::bigint[]))",
        [row.account_id for row in rows],
        [row.sequence for row in rows],
    )


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
