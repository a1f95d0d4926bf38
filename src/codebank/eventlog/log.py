"""The event log's port: what every log promises, whoever keeps it.

A topic has partitions; a record's key chooses its partition; records of one partition are read in the order in which
they were appended. Readers of a group share a topic's partitions among them; each partition has one reader at a time.
Positions are the reader's to keep, in the same transaction as what it made of the records.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from codebank.events import key_of
from codebank.runtime.postgres.errors import OUTAGES

PARTITIONS: Final = 12


class Fenced(Exception):
    """A later writer of the topic has taken this one's place; nothing was appended."""


class LogUnavailable(Exception):
    """The log does not answer, or not as it should: the message says what. Trying again later may help."""


#: What a log may raise while it, or the database that keeps it, is out of reach.
LOG_ERRORS: Final = (LogUnavailable, *OUTAGES)


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be appended."""

    key: bytes
    value: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A record on the log."""

    topic: str
    partition: int
    #: Rises within a partition; a log may keep marks of its own between records, which take numbers too.
    offset: int
    #: Where a reader stood before this record: its offset, or less where such marks come first.
    follows: int
    key: bytes
    value: bytes
    headers: Mapping[str, str]
    appended_at: datetime


@dataclass(frozen=True, slots=True)
class Broker:
    """One server of the log."""

    broker_id: int
    address: str


@dataclass(frozen=True, slots=True)
class PartitionPlace:
    """Who keeps a partition."""

    partition: int
    #: The broker that takes its records and gives them out; None while there is none.
    leader: int | None
    replicas: tuple[int, ...]
    #: Replicas that have everything.
    in_sync: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Who keeps a topic."""

    #: Those that answer now.
    brokers: tuple[Broker, ...]
    partitions: tuple[PartitionPlace, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One reader of a group, as others see it."""

    group: str
    member: str
    partitions: tuple[int, ...]
    #: Milliseconds since it was last heard of.
    silent_milliseconds: int


#: Gives the next offset that a reader wants of each partition; one that it leaves out begins at 0.
Positions = Callable[[Collection[int]], Awaitable[Mapping[int, int]]]


class Writer(Protocol):
    """The one writer of a topic."""

    async def append(self, records: Sequence[NewRecord]) -> None:
        """Append all records or none, those of one key in the order given.

        Raises Fenced when another writer was opened meanwhile. Any other error leaves it unknown whether the records
        were appended: open a new writer and look at the tail.
        """

    async def tail(self, count: int) -> list[Record]:
        """Give the last `count` records of each partition, in order per partition."""

    async def close(self) -> None:
        """Let go of what the writer holds."""


class Reader(Protocol):
    """A member of a group."""

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions that this member reads now."""

    async def read(self, max_records: int, timeout_seconds: float) -> list[Record]:
        """Give the next records of the partitions assigned, in order per partition; none when the time is over.

        Reading moves on in memory only: after a restart or a rebalance the kept positions count. A member that was
        silent for longer than the group allows gives nothing more of the partitions that it lost.
        """

    async def seek(self, partition: int, offset: int) -> None:
        """Go on at an offset of an assigned partition."""

    async def close(self) -> None:
        """Leave the group, so that others take the partitions at once."""


class EventLog(Protocol):
    """A partitioned, ordered, durable log. Every call may raise one of LOG_ERRORS."""

    async def open_writer(self, topic: str) -> Writer:
        """Open the topic's writer. Every writer opened before is fenced from then on."""

    async def open_reader(self, topic: str, group: str, member: str, positions: Positions) -> Reader:
        """Join a group; `positions` is asked each time partitions are assigned."""

    async def ends(self, topic: str, *, settled: bool = False) -> dict[int, int]:
        """Give the offset after the last record of every partition: where one who has read all of it stands.

        A record that was acknowledged a moment ago may not be readable yet; `settled` waits until it is.
        """

    async def scan(self, topic: str, partition: int, from_offset: int, max_records: int) -> list[Record]:
        """Read a piece of a partition without being anybody: for replay and for the proof."""

    async def members(self, topic: str) -> list[Member]:
        """Tell who reads what."""

    async def committed(self, topic: str, group: str) -> dict[int, int]:
        """Tell how far a group came that leaves its positions with the log; nothing where it keeps them itself."""

    async def layout(self, topic: str) -> Layout:
        """Tell which servers keep the topic."""


def partition_of(key: bytes, partitions: int = PARTITIONS) -> int:
    """Choose a key's partition: CRC-32 of the key modulo the count, as librdkafka's `consistent` partitioner does."""
    return zlib.crc32(key) % partitions


def partition_of_account(account_id: UUID) -> int:
    """Tell in which partition an account's events are."""
    return partition_of(key_of(account_id))
