"""The embedded log: partitioned tables in PostgreSQL that keep the port's promises."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
import msgspec

from codebank.eventlog.local.group import Group
from codebank.eventlog.log import (
    Broker,
    Fenced,
    Layout,
    Member,
    NewRecord,
    PartitionPlace,
    Positions,
    Record,
    partition_of,
)
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import connect, listen
from codebank.runtime.process import pause

#: How long a reader waits at most before it looks by itself, should a wake-up have been lost.
_POLL_SECONDS: Final = 0.5
_ITSELF: Final = Broker(1, "PostgreSQL")

# One statement, so one round trip for a transaction. An earlier writer waits for the topic's row and finds that its
# turn is over; a later one waits for what is written here.
_APPEND: Final = """
with mine as (
    select topic from topic where topic = $1 and writer_epoch = $2 for update
), moved as (
    update partition_end e set next_offset = e.next_offset + n.count
    from mine, unnest($3::int[], $4::bigint[]) as n(partition, count)
    where e.topic = mine.topic and e.partition = n.partition
    returning e.partition, e.next_offset - n.count as first_offset
), written as (
    insert into record (topic, partition, "offset", key, value, headers)
    select $1, n.partition, m.first_offset + n.place, n.key, n.value, n.headers::jsonb
    from unnest($5::int[], $6::bigint[], $7::bytea[], $8::bytea[], $9::text[])
         as n(partition, place, key, value, headers)
    join moved m using (partition)
)
select pg_notify('log', topic) from mine
"""
# Most partitions have nothing new: their ends say so without a look into each.
_READ: Final = """
select r.* from unnest($2::int[], $3::bigint[]) as want(partition, from_offset)
join partition_end e on e.topic = $1 and e.partition = want.partition and e.next_offset > want.from_offset
cross join lateral (
    select * from record r
    where r.topic = $1 and r.partition = want.partition and r."offset" >= want.from_offset
    order by r."offset" limit $4
) r
"""
_TAIL: Final = """
select r.* from partition_end e cross join lateral (
    select * from record r where r.topic = e.topic and r.partition = e.partition
    order by r."offset" desc limit $2
) r where e.topic = $1 order by r.partition, r."offset"
"""


def _record(row: asyncpg.Record) -> Record:
    return Record(
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        follows=row["offset"],
        key=row["key"],
        value=row["value"],
        headers=row["headers"],
        appended_at=row["appended_at"],
    )


@dataclass
class LocalLog:
    """The log in a PostgreSQL database; see `codebank.eventlog.log.EventLog` for what it promises."""

    pool: asyncpg.Pool
    dsn: str
    member_timeout_seconds: int = 3

    async def open_writer(self, topic: str) -> LocalWriter:
        epoch = await self.pool.fetchval(
            "update topic set writer_epoch = writer_epoch + 1 where topic = $1 returning writer_epoch", topic
        )
        return LocalWriter(self.pool, topic, epoch)

    async def open_reader(self, topic: str, group: str, member: str, positions: Positions) -> LocalReader:
        return LocalReader(self, Group(self.pool, topic, group, member, self.member_timeout_seconds), positions)

    async def ends(self, topic: str, *, settled: bool = False) -> dict[int, int]:
        rows = await self.pool.fetch("select partition, next_offset from partition_end where topic = $1", topic)
        return {row["partition"]: row["next_offset"] for row in rows}

    async def scan(self, topic: str, partition: int, from_offset: int, max_records: int) -> list[Record]:
        rows = await self.pool.fetch(_READ, topic, [partition], [from_offset], max_records)
        return [_record(row) for row in rows]

    async def members(self, topic: str) -> list[Member]:
        rows = await self.pool.fetch(
            'select m."group", m.member, array_remove(array_agg(c.partition order by c.partition), null) as partitions,'
            " greatest(0, extract(epoch from now() - m.heard_at) * 1000)::bigint as silent from member m"
            ' left join claim c using (topic, "group", member) where m.topic = $1'
            ' group by m."group", m.member, m.heard_at order by 1, 2',
            topic,
        )
        return [Member(row["group"], row["member"], tuple(row["partitions"]), row["silent"]) for row in rows]

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        return {}

    async def layout(self, topic: str) -> Layout:
        numbers = sorted(await self.ends(topic))
        here = (_ITSELF.broker_id,)
        return Layout((_ITSELF,), tuple(PartitionPlace(number, _ITSELF.broker_id, here, here) for number in numbers))


@dataclass
class LocalWriter:
    """The writer of one topic."""

    pool: asyncpg.Pool
    topic: str
    epoch: int

    async def append(self, records: Sequence[NewRecord]) -> None:
        if not records:
            return
        places: dict[int, int] = defaultdict(int)
        rows = []
        for record in records:
            partition = partition_of(record.key)
            headers = msgspec.json.encode(record.headers).decode()
            rows.append((partition, places[partition], record.key, record.value, headers))
            places[partition] += 1
        columns = [list(column) for column in zip(*rows, strict=True)]
        async with self.pool.acquire() as connection:
            if not await connection.fetch(
                _APPEND, self.topic, self.epoch, list(places), list(places.values()), *columns
            ):
                raise Fenced(f"writer {self.epoch} of {self.topic} was replaced by a later one")

    async def tail(self, count: int) -> list[Record]:
        return [_record(row) for row in await self.pool.fetch(_TAIL, self.topic, count)]

    async def close(self) -> None:
        """Nothing is held between appends."""


class LocalReader:
    """A member of a group; reads what its claims allow."""

    def __init__(self, log: LocalLog, group: Group, positions: Positions) -> None:
        self._log = log
        self._group = group
        self._positions = positions
        self._next: dict[int, int] = {}
        #: Set while there may be more than was read: something was appended, or the last look did not take all.
        self._woken = asyncio.Event()
        self._woken.set()
        #: Listens for appends; whoever reads keeps it open, so there is no task that could end alone.
        self._ear: asyncpg.Connection | None = None

    @property
    def assigned(self) -> frozenset[int]:
        return frozenset(self._next)

    async def read(self, max_records: int, timeout_seconds: float) -> list[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while True:
            await pause(self._woken, min(deadline - loop.time(), _POLL_SECONDS, self._group.heartbeat_seconds))
            # Cleared before looking: what is appended meanwhile wakes again.
            self._woken.clear()
            try:
                await self._keep_listening()
                await self._keep_membership()
                records = await self._fetch(max_records)
            except OUTAGES:
                # Whatever is remembered may be stale by the time the database is back: ask for everything anew.
                self._next.clear()
                self._woken.set()
                raise
            if records or loop.time() >= deadline:
                return records

    async def _keep_listening(self) -> None:
        if self._ear is None or self._ear.is_closed():
            self._ear = await connect(self._log.dsn, role="reader")
            await listen(self._ear, "log", lambda _topic: self._woken.set())

    async def _keep_membership(self) -> None:
        owned = await self._group.keep()
        for partition in set(self._next) - owned:
            del self._next[partition]
        fresh = owned - set(self._next)
        if fresh:
            kept = await self._positions(sorted(fresh))
            self._next.update({partition: kept.get(partition, 0) for partition in fresh})

    async def _fetch(self, max_records: int) -> list[Record]:
        if not self._next:
            return []
        # Each partition gets its share of the batch, so that a busy one does not starve the others.
        share = max(1, max_records // len(self._next))
        rows = await self._log.pool.fetch(_READ, self._group.topic, list(self._next), list(self._next.values()), share)
        if len(rows) >= share:
            self._woken.set()
        records = [_record(row) for row in rows][:max_records]
        # Fetching took time; what was lost meanwhile belongs to another member already.
        owned = self._group.owned_now()
        records = [record for record in records if record.partition in owned]
        for record in records:
            self._next[record.partition] = record.offset + 1
        return records

    async def seek(self, partition: int, offset: int) -> None:
        if partition in self._next:
            self._next[partition] = offset
            self._woken.set()

    async def close(self) -> None:
        if self._ear is not None:
            self._ear.terminate()
        self._next.clear()
        await self._group.leave()
