"""What the control room shows: the stages of the flow with their counts and how far each is behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from codebank.audit.control.log import LogView, PartitionView, read_log
from codebank.audit.store import control as store
from codebank.audit.store.sides import SIDE_ERRORS, Sides
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
class RecentPayment:
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
    recent: Sequence[RecentPayment]

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
    def partitions(self) -> Sequence[PartitionView]:
        """The log's partitions; none while it does not answer."""
        return self.log.partitions if self.log else ()


async def read_flow(sides: Sides, health: Mapping[str, int], host: str) -> Flow:
    """Look at every stage. A side that does not answer is shown as dead, not waited for."""
    orders, payments, backlog, statement, roles, (log, search, recent) = await asyncio.gather(
        _safely(store.count_orders(sides.checkout)),
        _safely(store.count_payments(sides.bank)),
        _safely(store.read_backlog(sides.bank)),
        _safely(store.count_statement(sides.statement)),
        _roles(health, host),
        asyncio.gather(_safely(read_log(sides)), _search(sides), _safely(_recent(sides))),
    )
    return Flow(
        orders=orders,
        payments=payments,
        outbox=backlog["count"] if backlog else None,
        outbox_age_milliseconds=backlog["age_milliseconds"] if backlog else 0,
        log=log,
        search=search,
        lines=statement["lines"] if statement else None,
        numbered=backlog["numbered"] if backlog else None,
        applied=statement["applied"] if statement else None,
        dead_letters=statement["dead_letters"] if statement else 0,
        roles=roles,
        recent=recent or (),
    )


async def _safely(reading: Awaitable[Reading]) -> Reading | None:
    with contextlib.suppress(*SIDE_ERRORS, TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await reading
    return None


async def _search(sides: Sides) -> SearchView | None:
    if sides.search is None:
        return None
    documents, connectors = await asyncio.gather(
        _safely(sides.search.count()), _safely(read_connectors(sides.settings))
    )
    return SearchView(documents, connectors)


async def _recent(sides: Sides) -> list[RecentPayment]:
    payments = await store.recent_payments(sides.bank)
    # The payments are shown where the statement does not answer too: then none is known to have arrived.
    payment_ids = [row["payment_id"] for row in payments]
    delays = await _safely(store.line_delays(sides.statement, payment_ids)) or {}
    return [
        RecentPayment(
            payment_id=str(row["payment_id"]),
            merchant_name=row["merchant_name"],
            card_masked=row["card_masked"],
            amount_minor=row["amount_minor"],
            currency=row["currency"],
            status=row["status"],
            decline_code=row["decline_code"],
            decided_at=row["created_at"],
            line_after_milliseconds=delays.get(row["payment_id"]),
        )
        for row in payments
    ]


async def _roles(health: Mapping[str, int], host: str) -> dict[str, bool]:
    asked = (is_ready(host.replace("{role}", role), port) for role, port in health.items())
    answers = await asyncio.gather(*asked)
    return dict(zip(health, answers, strict=True))
