"""The proof's fifth party: whether the search index holds each payment once, as the bank has it.

Totals per day and status are compared first. Only where they differ, payment by payment of those days is looked at: a
connector that is behind makes totals differ too, and that is no loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

import asyncpg

from codebank.audit.proof.events import PartitionEvents
from codebank.audit.proof.reconcile import Difference, Findings, PaymentFact, compare_payments
from codebank.audit.store import payments as store
from codebank.audit.store.sides import Sides
from codebank.civil import SAO_PAULO, local_day
from codebank.eventlog.log import partition_of_account
from codebank.events import PAYMENTS_TOPIC
from codebank.search.connect import CONNECTOR, group_of
from codebank.search.index import Total, Totals

_PROMISE = "the search index holds each payment once: count and sum per day and status are the bank's"


@dataclass
class Indexed:
    """What the index said before the bank's accounts were read, and how far the connector surely was by then."""

    committed: Mapping[int, int]
    #: Days whose totals are not the bank's.
    days: set[date]
    #: Of those days, per partition of their accounts.
    _documents: Mapping[int, Sequence[PaymentFact]]
    #: Events of payments that are not surely in the index yet.
    ahead: int = 0
    findings: Findings = field(default_factory=lambda: Findings("search", _PROMISE))

    def compare(self, partition: int, payments: Mapping[UUID, asyncpg.Record], events: PartitionEvents) -> None:
        """Compare a partition's payments of the days in question with their documents.

        `events` is what the bank says of them: a payment that the connector has not surely written may be missing.
        """
        self.ahead += events.ahead
        if not self.days:
            return
        documents = self._documents.get(partition, ())
        found = {fact.payment_id: fact for fact in documents}
        wanted = {
            payment_id: fact
            for payment_id, fact in events.payments.items()
            if payment_id in found
            or (payment_id in payments and local_day(payments[payment_id]["created_at"]) in self.days)
        }
        differences = compare_payments(wanted, found, events.passed, "search index")
        if len(documents) != len(found):
            differences.append(Difference("indexed_twice", count=len(documents), found=len(found)))
        self.findings.add(0, differences)


async def read_indexed(sides: Sides) -> Indexed | None:
    """Read the connector's positions, then the index: what the positions promise is there. None where there is none.

    Whatever it has, the bank has by the time that it is asked.
    """
    if sides.search is None:
        return None
    committed = await sides.log.committed(PAYMENTS_TOPIC, group_of(CONNECTOR))
    indexed, bank = await sides.search.totals(), await _totals(sides)
    days = {
        day for day, status in bank.keys() | indexed.keys() if bank.get((day, status)) != indexed.get((day, status))
    }
    documents: dict[int, list[PaymentFact]] = {}
    unreadable = []
    if days:
        async for document in sides.search.states(sorted(days)):
            try:
                fact = _fact(document)
            except (TypeError, ValueError):
                unreadable.append(Difference("document", document=document["payment_id"]))
                continue
            documents.setdefault(partition_of_account(fact.account_id), []).append(fact)
    found = Indexed(committed, days, documents)
    found.findings.add(sum(total.count for total in indexed.values()), unreadable)
    return found


async def _totals(sides: Sides) -> Totals:
    """Count and add up the bank's payments as the index does."""
    rows = await store.totals(sides.bank, SAO_PAULO.key)
    return {
        (row["day"], row["status"]): Total(row["count"], row["amount_minor"], row["refunded_minor"]) for row in rows
    }


def _fact(document: Mapping[str, Any]) -> PaymentFact:
    return PaymentFact(
        account_id=UUID(document["account_id"]),
        payment_id=UUID(document["payment_id"]),
        status=document["status"],
        amount_minor=document["amount_minor"],
        refunded_minor=document["refunded_minor"],
        sequence=document["sequence"],
        first_sequence=document["sequence"],
    )
