"""The proof of a partition: the accounts whose events are in it, as every side has them.

All that is compared payment by payment is compared here. An account is in one partition with all that belongs to it,
so the proof holds one partition at a time, and no side has to stand still for longer than that takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from codebank.audit.proof.events import PartitionEvents, read_events, request_mark
from codebank.audit.proof.reconcile import (
    AllPutAside,
    Check,
    Difference,
    Findings,
    PaymentFact,
    PutAside,
    compare_payments,
    first_gap,
)
from codebank.audit.store import payments as store
from codebank.audit.store.sides import Sides, snapshot
from codebank.bank.account.count import hash_of


@dataclass(frozen=True, slots=True)
class StatementSide:
    """What the statement has of a partition's accounts."""

    lines: Mapping[UUID, PaymentFact]
    #: Number of the last event that was applied, per account.
    sequences: Mapping[UUID, int]
    #: Where the projector goes on reading.
    position: int
    #: Offsets of the partition's records that were put aside.
    dead_letters: frozenset[int]
    #: Events of the accounts that were put aside, wherever they lie, and not applied since.
    put_aside: AllPutAside


@dataclass(frozen=True, slots=True)
class PartitionSides:
    """The accounts of one partition, as every side has them."""

    partition: int
    #: The last number that the bank gave out, per account.
    sequences: Mapping[UUID, int]
    #: The bank's payments.
    payments: Mapping[UUID, asyncpg.Record]
    events: PartitionEvents
    statement: StatementSide

    @property
    def lag(self) -> int:
        """Events that the statement has still to see; what was put aside it has seen, and what is lost never comes."""
        on_its_way = 0
        for account_id in self.sequences:
            seen = self.statement.sequences.get(account_id, 0)
            aside = self.statement.put_aside.get(account_id, {})
            on_its_way += sum(number > seen and number not in aside for number in self.numbers(account_id))
        return on_its_way

    def numbers(self, account_id: UUID) -> Sequence[int]:
        """Give an account's numbers, those on the log and then those that wait."""
        return self.events.on_log.get(account_id, []) + self.events.waiting.get(account_id, [])

    def absent(self, account_id: UUID) -> Collection[int]:
        """Give the numbers on file that are neither on the log, where they should be, nor wait."""
        aside, last = self.statement.put_aside.get(account_id), self.sequences[account_id]
        return {number for number in aside if number <= last} - set(self.numbers(account_id)) if aside else ()


async def read_partition(sides: Sides, partition: int, accounts: Sequence[UUID], committed: int) -> PartitionSides:
    """Read what every side has of accounts; `committed` is how far the connector was in their partition.

    The statement is read before the bank, so whatever it shows the bank knows. The log is read after the bank's outbox,
    so an event that is shipped in between is seen at least once; what came later than the bank's numbers is left out.
    """
    async with snapshot(sides.statement) as connection:
        statement = StatementSide(
            {row["payment_id"]: PaymentFact(**row) async for row in store.lines(connection, accounts)},
            await store.sequences(connection, accounts),
            await store.position(connection, partition),
            await store.dead_letters(connection, partition),
            _put_aside(await store.waiting_letters(connection, accounts)),
        )
    async with snapshot(sides.bank) as bank:
        sequences = await store.sequences(bank, accounts)
        payments = {row["payment_id"]: row async for row in store.payments(bank, accounts)}
        outbox = await store.outbox(bank, accounts)
    events = await read_events(sides.log, partition, outbox, sequences, committed)
    return PartitionSides(partition, sequences, payments, events, statement)


def _put_aside(rows: Sequence[asyncpg.Record]) -> AllPutAside:
    found: dict[UUID, dict[int, PutAside]] = {}
    for row in rows:
        if row["sequence"] and row["sequence"].isdecimal():
            letter = PutAside(UUID(row["account_id"]), int(row["sequence"]), row["partition"], row["offset"])
            found.setdefault(letter.account_id, {})[letter.number] = letter
    return found


class Comparison:
    """What the partitions say together of events, log and statement."""

    def __init__(self) -> None:
        self.events = Findings(
            "events",
            "each change of a payment is one event, the first from the request that its key is of,"
            " and each account's numbers end where its row says",
        )
        self.log = Findings("log", "each event is on the log once, numbers per account 1, 2, 3 … in order")
        self.statement = Findings("statement", "the statement's lines are the bank's payments, each once, to the cent")

    def add(self, sides: PartitionSides) -> None:
        """Compare a partition."""
        self.events.add(len(sides.payments), [*_changes(sides), *_numbers(sides)])
        self.log.add(sum(len(numbers) for numbers in sides.events.on_log.values()), _on_log(sides))
        statement = sides.statement
        differences = compare_payments(
            sides.events.payments, statement.lines, statement.sequences, "statement", statement.put_aside
        )
        self.statement.add(len(statement.lines), differences)

    def checks(self) -> list[Check]:
        """Say what was found in all partitions."""
        return [self.events.check(), self.log.check(), self.statement.check()]


def _changes(sides: PartitionSides) -> list[Difference]:
    """Hold each payment against its events: as many as it has versions, the last one saying what its row says.

    The first one names the request that it comes from: its key, whose it is, and what was asked.

    An event that is on file, or not understood here, may be any payment's of its account: so many may be missing.
    """
    events, differences = sides.events, []
    spare = {
        account_id: events.not_understood.get(account_id, 0) + len(sides.absent(account_id))
        for account_id in sides.sequences
    }
    for payment_id, payment in sides.payments.items():
        count, version, account_id = events.changes.get(payment_id, 0), payment["version"], payment["account_id"]
        fact = events.payments.get(payment_id)
        if 0 < version - count <= spare.get(account_id, 0):
            spare[account_id] -= version - count
        elif count != version:
            differences.append(
                Difference("changes", payment=payment_id, status=payment["status"], version=version, count=count)
            )
        elif fact and _state(fact) != _state_of_row(payment):
            differences.append(
                Difference("last_event", payment=payment_id, status=payment["status"], other_status=str(fact.status))
            )
        if (mark := events.requests.get(payment_id)) is not None and mark != _mark_of_row(payment):
            differences.append(Difference("request", payment=payment_id))
    unknown = events.payments.keys() - sides.payments.keys()
    return [*differences, *(Difference("no_payment", payment=payment) for payment in unknown)]


def _state(fact: PaymentFact) -> tuple[object, ...]:
    return fact.status, fact.amount_minor, fact.captured_minor, fact.refunded_minor


def _mark_of_row(row: asyncpg.Record) -> int:
    return request_mark(row["merchant_id"], hash_of(row["idempotency_key"]), row["digest"] or "")


def _state_of_row(row: asyncpg.Record) -> tuple[object, ...]:
    return row["status"], row["amount_minor"], row["captured_minor"], row["refunded_minor"]


def _numbers(sides: PartitionSides) -> list[Difference]:
    differences = []
    for account_id, last in sides.sequences.items():
        count = len(sides.numbers(account_id))
        if count + len(sides.absent(account_id)) != last:
            differences.append(Difference("numbers", account=account_id, count=count, last=last))
    return differences


def _on_log(sides: PartitionSides) -> list[Difference]:
    events, statement = sides.events, sides.statement
    differences = [
        *events.differences,
        *(
            Difference("unreadable", offset=offset, partition=sides.partition)
            for offset in events.unreadable
            if offset < statement.position and offset not in statement.dead_letters
        ),
    ]
    for account_id, numbers in events.on_log.items():
        if (gap := first_gap(numbers, sides.absent(account_id))) is not None:
            differences.append(Difference("gap", account=account_id, expected=gap[0], found=gap[1]))
    for account_id in sides.sequences:
        aside = statement.put_aside.get(account_id, {})
        differences += [aside[number].difference() for number in sorted(sides.absent(account_id))]
    return differences
