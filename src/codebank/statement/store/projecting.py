"""What the projector reads and writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from codebank.events import Event
from codebank.runtime.postgres.pool import Connection
from codebank.statement.line import Line


async def read_positions(connection: Connection, topic: str, partitions: Collection[int]) -> Mapping[int, int]:
    """Tell how far partitions were read."""
    rows = await connection.fetch(
        "select partition, next_offset from position where topic = $1 and partition = any($2)",
        topic,
        list(partitions),
    )
    return {row["partition"]: row["next_offset"] for row in rows}


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
    rows = [
        (
            event.account_id,
            event.account.holder_name,
            event.account.status,
            event.account.currency,
            event.account.limit_minor,
            event.account.used_minor,
            event.sequence,
            event.occurred_at,
        )
        for event in events
    ]
    await connection.execute(
        "insert into account (account_id, holder_name, status, currency, limit_minor, used_minor, sequence, updated_at)"
        " select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],"
        " $7::bigint[], $8::timestamptz[]) on conflict (account_id) do update set"
        " holder_name = excluded.holder_name, status = excluded.status, currency = excluded.currency,"
        " limit_minor = excluded.limit_minor, used_minor = excluded.used_minor, sequence = excluded.sequence,"
        " updated_at = excluded.updated_at"
        " where account.sequence < excluded.sequence",
        *(list(column) for column in zip(*rows, strict=True)),
    )


_LINE_FIELDS = (
    "account_id", "payment_id", "sequence", "first_sequence", "merchant_name", "merchant_category", "description",
    "amount_minor", "currency", "parcelas", "status", "decline_code", "refunded_minor", "card_masked",
    "available_minor", "occurred_at", "local_day", "search_text",
)  # fmt: skip


#: What the newer event says of a payment; the rest of its line stands since the first.
_CHANGING = ("status", "decline_code", "amount_minor", "refunded_minor")


async def write_lines(connection: Connection, lines: Sequence[Line]) -> None:
    """Write lines; one that is there changes to the newer state, and stands where the older one put it."""
    columns = [[getattr(line, name) for line in lines] for name in _LINE_FIELDS]
    newer = " ".join(
        f"{name} = case when excluded.sequence > line.sequence then excluded.{name} else line.{name} end,"
        for name in _CHANGING
    )
    await connection.execute(
        f"insert into line ({', '.join(_LINE_FIELDS)})"
        " select * from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],"
        " $8::bigint[], $9::text[], $10::int[], $11::text[], $12::text[], $13::bigint[], $14::text[], $15::bigint[],"
        " $16::timestamptz[], $17::date[], $18::text[])"
        f" on conflict (account_id, payment_id) do update set {newer}"
        " available_minor = case when excluded.first_sequence < line.first_sequence then excluded.available_minor"
        "  else line.available_minor end,"
        " sequence = greatest(line.sequence, excluded.sequence),"
        " first_sequence = least(line.first_sequence, excluded.first_sequence)",
        *columns,
    )


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
    await connection.execute("delete from dead_letter where topic = $1 and partition = $2", topic, partition)


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


async def announce(connection: Connection, account_id: UUID, sequence: int, traceparent: str) -> None:
    """Wake the open pages of an account, once this transaction is committed; its trace, if any, goes on there."""
    await connection.execute("select pg_notify('line', $1)", f"{account_id}:{sequence}:{traceparent}")
