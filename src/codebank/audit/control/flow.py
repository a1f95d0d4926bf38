"""What the control room shows: the stages of the flow with their counts and how far each is behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

from codebank.audit.control.log import LogView, Partition, read_log
from codebank.audit.store import SIDE_ERRORS, Sides
from codebank.runtime.watch.health import is_ready
from codebank.search.connect import ConnectorState, read_connectors

Reading = TypeVar("Reading")

#: A side that has not answered by then is shown as one that does not answer.
PATIENCE_SECONDS: Final = 3


@dataclass(frozen=True, slots=True)
class SearchView:
    """The search index and the connector that fills it."""

    #: None where Elasticsearch does not answer.
    documents: int | None
    #: None where Kafka Connect does not answer.
    connectors: Sequence[ConnectorState] | None

    @property
    def runs(self) -> bool:
        """Whether everything on the way to the index runs."""
        return self.documents is not None and bool(self.connectors) and all(one.runs for one in self.connectors or ())


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
    #: None where the log does not answer.
    log: LogView | None
    #: None where no search index is part of the system.
    search: SearchView | None
    lines: int | None
    #: Events that the bank has numbered, and those that the statement has applied.
    numbered: int | None
    applied: int | None
    dead_letters: int
    #: Role → whether it says that it is ready.
    roles: Mapping[str, bool]
    recent: Sequence[Recent]

    @property
    def shipped(self) -> int | None:
        """Events that the relay put on the log; Kafka's offsets count its own marks too."""
        return None if self.numbered is None or self.outbox is None else self.numbered - self.outbox

    @property
    def lag(self) -> int:
        """Events on the log that the statement has not stored; offsets where a side does not tell."""
        if self.shipped is None or self.applied is None:
            return sum(partition.lag for partition in self.partitions)
        return max(0, self.shipped - self.applied)

    def counts(self) -> dict[str, int | None]:
        """Give what only ever grows; rates are made of it."""
        payments = None if self.payments is None else sum(self.payments.values())
        return {
            "payments": payments,
            "numbered": self.numbered,
            "shipped": self.shipped,
            "applied": self.applied,
            "lines": self.lines,
        }

    @property
    def search_lag(self) -> int:
        """Events on the log that the connector has not passed on."""
        return sum(view.lag for partition in self.partitions for view in partition.groups[1:])

    @property
    def partitions(self) -> Sequence[Partition]:
        """The log's partitions; none while it does not answer."""
        return self.log.partitions if self.log else ()


async def read_flow(sides: Sides, health: Mapping[str, int], host: str) -> Flow:
    """Look at every stage. A side that does not answer is shown as dead, not waited for."""
    orders, payments, outbox, statement, roles, (log, search) = await asyncio.gather(
        _safely(_orders(sides)),
        _safely(_payments(sides)),
        _safely(_outbox(sides)),
        _safely(_statement(sides)),
        _roles(health, host),
        asyncio.gather(_safely(read_log(sides)), _search(sides)),
    )
    lines, dead_letters, applied = statement or (None, 0, None)
    return Flow(
        orders=orders,
        payments=payments,
        outbox=outbox[0] if outbox else None,
        outbox_age_milliseconds=outbox[1] if outbox else 0,
        log=log,
        search=search,
        lines=lines,
        numbered=outbox[2] if outbox else None,
        applied=applied,
        dead_letters=dead_letters,
        roles=roles,
        recent=await _safely(_recent(sides)) or (),
    )


async def _safely(reading: Awaitable[Reading]) -> Reading | None:
    with contextlib.suppress(*SIDE_ERRORS, TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reading
    return None


async def _orders(sides: Sides) -> dict[str, int]:
    rows = await sides.checkout.fetch("select status, count(*) as count from orders group by 1")
    return {row["status"]: row["count"] for row in rows}


async def _payments(sides: Sides) -> dict[str, int]:
    rows = await sides.bank.fetch("select status, count(*) as count from payment group by 1")
    return {row["status"]: row["count"] for row in rows}


async def _outbox(sides: Sides) -> tuple[int, int, int]:
    row = await sides.bank.fetchrow(
        "select count(*) as count, coalesce(extract(epoch from now() - min(created_at)) * 1000, 0)::bigint as age,"
        " (select coalesce(sum(sequence), 0)::bigint from account) as numbered from outbox"
    )
    assert row is not None
    return row["count"], max(0, row["age"]), row["numbered"]


async def _search(sides: Sides) -> SearchView | None:
    if sides.search is None:
        return None
    documents, connectors = await asyncio.gather(
        _safely(sides.search.count()), _safely(read_connectors(sides.settings))
    )
    return SearchView(documents, connectors)


async def _statement(sides: Sides) -> tuple[int, int, int]:
    row = await sides.statement.fetchrow(
        "select (select count(*) from line) as lines, (select count(*) from dead_letter) as dead_letters,"
        " (select coalesce(sum(sequence), 0)::bigint from account) as applied"
    )
    assert row is not None
    return row["lines"], row["dead_letters"], row["applied"]


async def _recent(sides: Sides) -> list[Recent]:
    payments = await sides.bank.fetch(
        "select payment_id, merchant_name, card_masked, amount_minor, currency, status, decline_code, created_at"
        " from payment order by payment_id desc limit 12"
    )
    # The payments are shown where the statement does not answer too: then none is known to have arrived.
    arrived = await _safely(_arrived(sides, [row["payment_id"] for row in payments])) or {}
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


async def _arrived(sides: Sides, payment_ids: Sequence[UUID]) -> dict[UUID, int]:
    rows = await sides.statement.fetch(
        "select payment_id, greatest(0, extract(epoch from projected_at - occurred_at) * 1000)::bigint as late"
        " from line where payment_id = any($1)",
        payment_ids,
    )
    return {row["payment_id"]: row["late"] for row in rows}


async def _roles(health: Mapping[str, int], host: str) -> dict[str, bool]:
    asked = (is_ready(host.replace("{role}", role), port) for role, port in health.items())
    answers = await asyncio.gather(*asked)
    return dict(zip(health, answers, strict=True))
