"""What the projector reads and writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from codebank.events import Event
from codebank.runtime.postgres.pool import Connection
from codebank.statement.line import Line

#: What `refuse_moved` raises (migration 0004).
_MOVED_STATE: Final = "CB001"
#: Columns and their types. Rows come as one document: that costs less than a list for each column.
_ACCOUNT: Final = {
    "account_id": "uuid", "holder_name": "text", "status": "text", "currency": "text", "limit_minor": "bigint",
    "used_minor": "bigint", "sequence": "bigint", "updated_at": "timestamptz",
}  # fmt: skip
_LINE: Final = {
    "account_id": "uuid", "payment_id": "uuid", "sequence": "bigint", "first_sequence": "bigint",
    "merchant_name": "text", "merchant_category": "text", "description": "text", "amount_minor": "bigint",
    "currency": "text", "parcelas": "int", "status": "text", "decline_code": "text", "refunded_minor": "bigint",
    "card_masked": "text", "available_minor": "bigint", "occurred_at": "timestamptz", "local_day": "date",
    "search_text": "text",
}  # fmt: skip
#: What the newer event says of a payment; the rest of its line stands since the first.
_CHANGING: Final = ("status", "decline_code", "amount_minor", "refunded_minor")


def _rows(parameter: int, columns: Mapping[str, str]) -> str:
    """Read a document of rows as a table `n`."""
    named = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    return f"json_to_recordset(${parameter}::text::json) as n({named})"


_NEWER: Final = " ".join(
    f"{name} = case when excluded.sequence > line.sequence then excluded.{name} else line.{name} end,"
    for name in _CHANGING
)
_WRITE_LINES: Final = (
    f"insert into line ({', '.join(_LINE)}) select * from {{rows}} where {{condition}}"
    f" on conflict (account_id, payment_id) do update set {_NEWER}"
    " available_minor = case when excluded.first_sequence < line.first_sequence then excluded.available_minor"
    "  else line.available_minor end,"
    " sequence = greatest(line.sequence, excluded.sequence),"
    " first_sequence = least(line.first_sequence, excluded.first_sequence)"
)
#: Rows of positions come first, for whoever locks them: the others are reached only once all of these have moved.
_HAVE_MOVED: Final = "(select count(*) from moved) = cardinality($1)"
_WRITE_BATCH: Final = f"""
with moved as (
    update position p set next_offset = n.after
    from unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[]) as n(topic, partition, before, after)
    where (p.topic, p.partition, p.next_offset) = (n.topic, n.partition, n.before) returning 1
), opened as (
    insert into account ({", ".join(_ACCOUNT)}) select * from {_rows(5, _ACCOUNT)} where {_HAVE_MOVED}
    on conflict do nothing returning 1
), known as (
    update account a set {", ".join(f"{name} = n.{name}" for name in _ACCOUNT if name != "account_id")}
    from {_rows(6, {**_ACCOUNT, "before": "bigint"})}
    where (a.account_id, a.sequence) = (n.account_id, n.before) and {_HAVE_MOVED} returning 1
), lines as (
    {_WRITE_LINES.format(rows=_rows(7, _LINE), condition=_HAVE_MOVED)}
)
select case when not {_HAVE_MOVED}
    or (select count(*) from opened) <> json_array_length($5::text::json)
    or (select count(*) from known) <> json_array_length($6::text::json)
    then refuse_moved() end,
    (select count(pg_notify('line', words)) from unnest($8::text[]) as words)
"""


class StatementMoved(Exception):
    """Somebody else wrote what a batch was made on; nothing of the batch was written."""


class Wake(NamedTuple):
    """What the open pages of an account are told: up to which event it was written, and the trace of that, if any."""

    account_id: UUID
    sequence: int
    traceparent: str

    def __str__(self) -> str:
        return f"{self.account_id}:{self.sequence}:{self.traceparent}"


class Move(NamedTuple):
    """How far a partition was read before a batch, and after it."""

    topic: str
    partition: int
    before: int
    after: int


async def read_positions(connection: Connection, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
    """Tell how far partitions were read."""
    rows = await connection.fetch(
        "select partition, next_offset from position where topic = $1 and partition = any($2)",
        topic,
        list(partitions),
    )
    return {row["partition"]: row["next_offset"] for row in rows}


async def prepare_positions(connection: Connection, topic: str, partitions: Collection[int]) -> None:
    """Give partitions their position's row, where nobody has read them yet."""
    await connection.execute(
        "insert into position (topic, partition, next_offset) select $1, number, 0 from unnest($2::int[]) as number"
        " order by number on conflict do nothing",
        topic,
        list(partitions),
    )


async def hold_position(connection: Connection, topic: str, partition: int) -> None:
    """Keep whoever reads a partition from going on until this transaction ends."""
    await connection.execute("select from position where topic = $1 and partition = $2 for update", topic, partition)


async def move_position(connection: Connection, topic: str, partition: int, old: int, new: int) -> bool:
    """Move a position from where the reader believes it to be; False where it is not there."""
    row = await connection.fetchrow(
        "insert into position as p (topic, partition, next_offset) select $1, $2, $4 where $3 = 0"
        " or exists (select from position where topic = $1 and partition = $2)"
        " on conflict (topic, partition) do update set next_offset = $4 where p.next_offset = $3"
        " returning next_offset",
        topic,
        partition,
        old,
        new,
    )
    return row is not None


async def read_sequences(connection: Connection, account_ids: Collection[UUID]) -> dict[UUID, int]:
    """Tell which event of each account was applied last."""
    rows = await connection.fetch(
        "select account_id, sequence from account where account_id = any($1)", list(account_ids)
    )
    return {row["account_id"]: row["sequence"] for row in rows}


async def write_accounts(connection: Connection, events: Sequence[Event]) -> None:
    """Write accounts as their last events tell them."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in _ACCOUNT if name != "account_id")
    await connection.execute(
        f"insert into account ({', '.join(_ACCOUNT)}) select * from {_rows(1, _ACCOUNT)}"
        f" on conflict (account_id) do update set {changes} where account.sequence < excluded.sequence",
        _document([_account_row(event) for event in events]),
    )


async def write_lines(connection: Connection, lines: Sequence[Line]) -> None:
    """Write lines; one that is there changes to the newer state, and stands where the older one put it."""
    await connection.execute(
        _WRITE_LINES.format(rows=_rows(1, _LINE), condition="true"), _document([_line_row(line) for line in lines])
    )


async def write_batch(
    connection: Connection,
    moves: Sequence[Move],
    accounts: Sequence[tuple[int, Event]],
    lines: Sequence[Line],
    wakes: Sequence[Wake],
) -> None:
    """Write what a batch makes of the statement, and wake the pages: by one statement, all of it or nothing.

    With each account's last event comes the number of the one that the statement told of before. Raises
    StatementMoved where that is another one by now, or a position is not where the reader believes it to be.
    """
    opened = [_account_row(event) for before, event in accounts if not before]
    known = [{**_account_row(event), "before": before} for before, event in accounts if before]
    topics, partitions, befores, afters = zip(*moves, strict=True)
    try:
        await connection.execute(
            _WRITE_BATCH, topics, partitions, befores, afters,
            _document(opened), _document(known), _document([_line_row(line) for line in lines]),
            [str(wake) for wake in wakes],
        )  # fmt: skip
    except asyncpg.PostgresError as error:
        if error.sqlstate != _MOVED_STATE:
            raise
        raise StatementMoved(str(error)) from None


def _document(rows: Sequence[Mapping[str, object]]) -> str:
    return msgspec.json.encode(rows).decode()


def _account_row(event: Event) -> dict[str, object]:
    state = event.account
    return {
        "account_id": event.account_id,
        "holder_name": state.holder_name,
        "status": state.status,
        "currency": state.currency,
        "limit_minor": state.limit_minor,
        "used_minor": state.used_minor,
        "sequence": event.sequence,
        "updated_at": event.occurred_at,
    }


def _line_row(line: Line) -> dict[str, object]:
    return {name: getattr(line, name) for name in _LINE}


async def read_account_ids(connection: Connection) -> list[UUID]:
    """Give every account that has been told of."""
    return [row["account_id"] for row in await connection.fetch("select account_id from account")]


async def forget(connection: Connection, topic: str, partition: int, account_ids: Sequence[object]) -> None:
    """Forget everything that was made of a partition, but for its position's row: whoever moves it must wait."""
    await connection.execute(
        "insert into position (topic, partition, next_offset) values ($1, $2, 0)"
        " on conflict (topic, partition) do update set next_offset = 0",
        topic,
        partition,
    )
    await connection.execute("delete from line where account_id = any($1)", account_ids)
    await connection.execute("delete from account where account_id = any($1)", account_ids)
    # What somebody decided about a record stays decided.
    await connection.execute(
        "delete from dead_letter where topic = $1 and partition = $2 and dismissed_at is null", topic, partition
    )


async def put_position(connection: Connection, topic: str, partition: int, next_offset: int) -> None:
    """Say how far a partition was read, wherever it stood."""
    await connection.execute(
        "update position set next_offset = $3 where topic = $1 and partition = $2", topic, partition, next_offset
    )


async def mark_caught_up(connection: Connection, partitions: Collection[int]) -> None:
    """Remember that partitions are read to their end now."""
    await connection.execute(
        "insert into freshness (partition, caught_up_at) select number, clock_timestamp()"
        " from unnest($1::int[]) as number order by number"
        " on conflict (partition) do update set caught_up_at = excluded.caught_up_at",
        list(partitions),
    )


async def read_caught_up(connection: Connection) -> dict[int, datetime]:
    """Tell when partitions were last seen read to their end."""
    rows = await connection.fetch("select partition, caught_up_at from freshness")
    return {row["partition"]: row["caught_up_at"] for row in rows}


async def announce(connection: Connection, wakes: Sequence[Wake]) -> None:
    """Wake the open pages of accounts, once this transaction is committed."""
    words = [str(wake) for wake in wakes]
    await connection.execute("select pg_notify('line', words) from unnest($1::text[]) as words", words)
