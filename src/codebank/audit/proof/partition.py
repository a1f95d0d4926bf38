"""The proof of a portion: the accounts whose events are in one partition of the log, as every side has them.

All that is compared payment by payment is compared here. An account is in one portion with all that belongs to it, so
the proof holds one portion at a time, and no side has to stand still for longer than that takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from codebank.audit import store
from codebank.audit.proof.events import Events, read_events
from codebank.audit.proof.reconcile import Check, Difference, Findings, PaymentFact, compare_payments, first_gap
from codebank.audit.store import Sides


@dataclass(frozen=True, slots=True)
class Read:
    """What the statement has of a portion."""

    lines: Mapping[UUID, PaymentFact]
    #: Number of the last event that was applied, per account.
    sequences: Mapping[UUID, int]
    #: Where the projector goes on reading.
    position: int
    #: Offsets of records that nobody could read.
    put_aside: frozenset[int]


@dataclass(frozen=True, slots=True)
class Portion:
    """The accounts of one partition."""

    partition: int
    #: The last number that the bank gave out, per account.
    sequences: Mapping[UUID, int]
    #: The bank's payments.
    payments: Mapping[UUID, asyncpg.Record]
    events: Events
    read: Read

    @property
    def lag(self) -> int:
        """Events that the statement has not seen yet."""
        return sum(last - min(self.read.sequences.get(account, 0), last) for account, last in self.sequences.items())


async def read_portion(sides: Sides, partition: int, accounts: Sequence[UUID], committed: int) -> Portion:
    """Read what every side has of accounts; `committed` is how far the connector was in their partition.

    The statement is read before the bank, so whatever it shows the bank knows. The log is read after the bank's outbox,
    so an event that is shipped in between is seen at least once; what came later than the bank's numbers is left out.
    """
    async with store.snapshot(sides.statement) as statement:
        read = Read(
            {row["payment_id"]: PaymentFact(**row) async for row in store.lines(statement, accounts)},
            await store.sequences(statement, accounts),
            await store.position(statement, partition),
            await store.put_aside(statement, partition),
        )
    async with store.snapshot(sides.bank) as bank:
        sequences = await store.sequences(bank, accounts)
        payments = {row["payment_id"]: row async for row in store.payments(bank, accounts)}
        outbox = await store.outbox(bank, accounts)
    events = await read_events(sides.log, partition, outbox, sequences, committed)
    return Portion(partition, sequences, payments, events, read)


class Comparison:
    """What the portions say together of events, log and statement."""

    def __init__(self) -> None:
        self.events = Findings(
            "events", "each change of a payment is one event, and each account's numbers end where its row says"
        )
        self.log = Findings("log", "each event is on the log once, numbers per account 1, 2, 3 … in order")
        self.statement = Findings("statement", "the statement's lines are the bank's payments, each once, to the cent")

    def add(self, portion: Portion) -> None:
        """Compare a portion."""
        self.events.add(len(portion.payments), [*_changes(portion), *_numbers(portion)])
        self.log.add(sum(len(numbers) for numbers in portion.events.on_log.values()), _on_log(portion))
        lines, seen = portion.read.lines, portion.read.sequences
        self.statement.add(len(lines), compare_payments(portion.events.payments, lines, seen, "statement"))

    def checks(self) -> list[Check]:
        """Say what was found in all portions."""
        return [self.events.check(), self.log.check(), self.statement.check()]


def _changes(portion: Portion) -> list[Difference]:
    events, differences = portion.events, []
    for payment_id, payment in portion.payments.items():
        told, expected = events.changes.get(payment_id, 0), 2 if payment["status"] == "refunded" else 1
        fact = events.payments.get(payment_id)
        if told != expected:
            differences.append(
                Difference("told", payment=payment_id, status=payment["status"], told=told, expected=expected)
            )
        elif fact and (fact.status, fact.amount_minor) != (payment["status"], payment["amount_minor"]):
            differences.append(
                Difference("last_event", payment=payment_id, status=payment["status"], other_status=str(fact.status))
            )
    unknown = events.payments.keys() - portion.payments.keys()
    return [*differences, *(Difference("no_payment", payment=payment) for payment in unknown)]


def _numbers(portion: Portion) -> list[Difference]:
    differences = []
    for account_id, last in portion.sequences.items():
        numbers = portion.events.on_log.get(account_id, []) + portion.events.waiting.get(account_id, [])
        if len(numbers) != last:
            differences.append(Difference("numbers", account=account_id, count=len(numbers), last=last))
    return differences


def _on_log(portion: Portion) -> list[Difference]:
    events, read = portion.events, portion.read
    differences = [
        *events.differences,
        *(
            Difference("unreadable", offset=offset, partition=portion.partition)
            for offset in events.unreadable
            if offset < read.position and offset not in read.put_aside
        ),
    ]
    for account_id, numbers in events.on_log.items():
        if (gap := first_gap(numbers)) is not None:
            differences.append(Difference("gap", account=account_id, expected=gap[0], found=gap[1]))
    return differences
