"""What the control room shows: the stages of the flow with their counts and how far each is behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from codebank.audit.store import Sides
from codebank.events import PAYMENTS_TOPIC
from codebank.runtime.database import CONNECTION_ERRORS
from codebank.runtime.health import is_ready

Reading = TypeVar("Reading")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition, as its readers stand."""

    number: int
    end: int
    lag: int
    reader: str


@dataclass(frozen=True, slots=True)
class Recent:
    """One of the last payments, and when it passed each stage."""

    payment_id: str
    merchant_name: str
    card_masked: str
    amount_minor: int
    currency: str
    status: str
    decline_code: str | None
    decided_at: datetime
    #: Milliseconds from the bank's decision to the line; None while it is on its way.
    line_after_milliseconds: int | None


@dataclass(frozen=True, slots=True)
class Flow:
    """The whole system at one moment. A count is None where its side does not answer."""

    orders: Mapping[str, int] | None
    payments: Mapping[str, int] | None
    outbox: int | None
    outbox_age_milliseconds: int
    partitions: Sequence[Partition]
    lines: int | None
    dead_letters: int
    #: Role → whether it says that it is ready.
    roles: Mapping[str, bool]
    recent: Sequence[Recent]

    @property
    def lag(self) -> int:
        """Events on the log that the statement has not stored."""
        return sum(partition.lag for partition in self.partitions)


async def read_flow(sides: Sides, health: Mapping[str, int], host: str) -> Flow:
    """Look at every stage. A side that does not answer is shown as dead, not waited for."""
    orders, payments, outbox, partitions, statement, roles = await asyncio.gather(
        _safely(_orders(sides)),
        _safely(_payments(sides)),
        _safely(_outbox(sides)),
        _safely(_partitions(sides)),
        _safely(_statement(sides)),
        _roles(health, host),
    )
    lines, dead_letters = statement or (None, 0)
    return Flow(
        orders=orders,
        payments=payments,
        outbox=outbox[0] if outbox else None,
        outbox_age_milliseconds=outbox[1] if outbox else 0,
        partitions=partitions or (),
        lines=lines,
        dead_letters=dead_letters,
        roles=roles,
        recent=await _safely(_recent(sides)) or (),
    )


async def _safely(reading: Awaitable[Reading]) -> Reading | None:
    with contextlib.suppress(*CONNECTION_ERRORS):
        return await reading
    return None


async def _orders(sides: Sides) -> dict[str, int]:
    rows = await sides.checkout.fetch("select status, count(*) as count from orders group by 1")
    return {row["status"]: row["count"] for row in rows}


async def _payments(sides: Sides) -> dict[str, int]:
    rows = await sides.bank.fetch("select status, count(*) as count from payment group by 1")
    return {row["status"]: row["count"] for row in rows}


async def _outbox(sides: Sides) -> tuple[int, int]:
    row = await sides.bank.fetchrow(
        "select count(*) as count, coalesce(extract(epoch from now() - min(created_at)) * 1000, 0)::bigint as age"
        " from outbox"
    )
    assert row is not None
    return row["count"], max(0, row["age"])


async def _partitions(sides: Sides) -> list[Partition]:
    positions = {
        row["partition"]: row["next_offset"]
        for row in await sides.statement.fetch(
            "select partition, next_offset from position where topic = $1", PAYMENTS_TOPIC
        )
    }
    rows = await sides.log.fetch(
        "select e.partition, e.next_offset, coalesce(c.member, '') as member from partition_end e"
        " left join claim c on (c.topic, c.partition) = (e.topic, e.partition) and c.\"group\" = 'statement'"
        " where e.topic = $1 order by 1",
        PAYMENTS_TOPIC,
    )
    return [
        Partition(
            row["partition"],
            row["next_offset"],
            max(0, row["next_offset"] - positions.get(row["partition"], 0)),
            row["member"],
        )
        for row in rows
    ]


async def _statement(sides: Sides) -> tuple[int, int]:
    row = await sides.statement.fetchrow(
        "select (select count(*) from line) as lines, (select count(*) from dead_letter) as dead_letters"
    )
    assert row is not None
    return row["lines"], row["dead_letters"]


async def _recent(sides: Sides) -> list[Recent]:
    payments = await sides.bank.fetch(
        "select payment_id, merchant_name, card_masked, amount_minor, currency, status, decline_code, created_at"
        " from payment order by payment_id desc limit 12"
    )
    arrived = {
        row["payment_id"]: row["late"]
        for row in await sides.statement.fetch(
            "select payment_id, greatest(0, extract(epoch from projected_at - occurred_at) * 1000)::bigint as late"
            " from line where payment_id = any($1)",
            [row["payment_id"] for row in payments],
        )
    }
    return [
        Recent(
            payment_id=str(row["payment_id"]),
            merchant_name=row["merchant_name"],
            card_masked=row["card_masked"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            status=row["status"],
            decline_code=row["decline_code"],
            decided_at=row["created_at"],
            line_after_milliseconds=arrived.get(row["payment_id"]),
        )
        for row in payments
    ]


async def _roles(health: Mapping[str, int], host: str) -> dict[str, bool]:
    answers = await asyncio.gather(*(is_ready(host, port) for port in health.values()))
    return dict(zip(health, answers, strict=True))
