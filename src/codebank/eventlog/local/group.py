"""Groups of the embedded log: members share partitions, and take over from the dead.

Members claim partitions of their own accord, a fair share each: one that holds more than its share releases the rest,
one that holds less claims what is free. Whoever is silent for too long loses all. Every change of a group happens
under its lock, and time is the database's, so that members' clocks do not matter.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import asyncpg

from codebank.runtime.postgres.pool import Connection


def share_of(member: str, members: Collection[str], partitions: int) -> int:
    """Say how many partitions a member shall hold: as even as can be, the first ones by name one more."""
    rank = sorted(members).index(member)
    least, rest = divmod(partitions, len(members))
    return least + (1 if rank < rest else 0)


@dataclass
class Group:
    """One member's view of its group."""

    pool: asyncpg.Pool
    topic: str
    group: str
    member: str
    timeout_seconds: int
    _owned: set[int] = field(default_factory=set)
    #: On the clock of `time.monotonic`: when the last heartbeat began that was written.
    _heard_at: float = float("-inf")

    @property
    def heartbeat_seconds(self) -> float:
        """How often a member makes itself heard."""
        return self.timeout_seconds / 4

    def owned_now(self) -> set[int]:
        """Give the partitions that are surely still this member's: none when its last heartbeat is too old."""
        return self._owned if time.monotonic() - self._heard_at < self.timeout_seconds else set()

    async def keep(self) -> set[int]:
        """Make oneself heard if it is time, settle who has what, and give the partitions owned."""
        if time.monotonic() - self._heard_at < self.heartbeat_seconds:
            return self._owned
        began_at = time.monotonic()
        async with self.pool.acquire() as connection, connection.transaction():
            await self._lock(connection)
            await connection.execute(
                'insert into member (topic, "group", member, heard_at) values ($1, $2, $3, clock_timestamp())'
                ' on conflict (topic, "group", member) do update set heard_at = clock_timestamp()',
                self.topic,
                self.group,
                self.member,
            )
            await self._bury_the_silent(connection)
            owned = await self._settle(connection)
        self._owned, self._heard_at = owned, began_at
        return self._owned

    async def _lock(self, connection: Connection) -> None:
        await connection.execute("select pg_advisory_xact_lock(hashtext($1), hashtext($2))", self.topic, self.group)

    async def _bury_the_silent(self, connection: Connection) -> None:
        # A stamp ahead of now is of before the clock was set back: it counts from now on, not once that time has come.
        await connection.execute(
            "update member set heard_at = clock_timestamp()"
            ' where topic = $1 and "group" = $2 and heard_at > clock_timestamp()',
            self.topic,
            self.group,
        )
        await connection.execute(
            'with dead as (delete from member where topic = $1 and "group" = $2'
            "  and member <> $4 and heard_at < clock_timestamp() - make_interval(secs => $3) returning member)"
            ' delete from claim where topic = $1 and "group" = $2 and member in (select member from dead)',
            self.topic,
            self.group,
            float(self.timeout_seconds),
            # It has spoken just now: on a machine under load even that may be long ago.
            self.member,
        )

    async def _settle(self, connection: Connection) -> set[int]:
        partitions = await connection.fetchval("select partitions from topic where topic = $1", self.topic)
        members = [
            row["member"]
            for row in await connection.fetch(
                'select member from member where topic = $1 and "group" = $2', self.topic, self.group
            )
        ]
        claims = {
            row["partition"]: row["member"]
            for row in await connection.fetch(
                'select partition, member from claim where topic = $1 and "group" = $2', self.topic, self.group
            )
        }
        mine = {partition for partition, member in claims.items() if member == self.member}
        share = share_of(self.member, members, partitions)
        free = set(range(partitions)) - set(claims)
        released = sorted(mine)[share:]
        claimed = sorted(free)[: max(0, share - len(mine))]
        await self._write(connection, released, claimed)
        return mine - set(released) | set(claimed)

    async def _write(self, connection: Connection, released: list[int], claimed: list[int]) -> None:
        if released:
            await connection.execute(
                'delete from claim where topic = $1 and "group" = $2 and partition = any($3)',
                self.topic,
                self.group,
                released,
            )
        if claimed:
            await connection.execute(
                'insert into claim (topic, "group", partition, member)'
                " select $1, $2, number, $4 from unnest($3::int[]) as number",
                self.topic,
                self.group,
                claimed,
                self.member,
            )
        if released:
            # Others wait for what was let go.
            await connection.execute("select pg_notify('log', $1)", self.topic)

    async def leave(self) -> None:
        """Give everything back at once."""
        self._owned, self._heard_at = set(), float("-inf")
        async with self.pool.acquire() as connection, connection.transaction():
            await self._lock(connection)
            for table in ("claim", "member"):
                await connection.execute(
                    f'delete from {table} where topic = $1 and "group" = $2 and member = $3',
                    self.topic,
                    self.group,
                    self.member,
                )
            await connection.execute("select pg_notify('log', $1)", self.topic)
