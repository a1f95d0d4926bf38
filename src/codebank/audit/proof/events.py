"""What the bank's events of a partition say, those on the log and those that wait in the outbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from codebank.audit.proof.reconcile import Difference, PaymentFact
from codebank.bank.operation import Authorize
from codebank.eventlog.log import EventLog, Record, partition_of_account
from codebank.eventlog.outbox import headers_of
from codebank.events import PAYMENTS_TOPIC, Event, PaymentEvent, key_of, shape_of
from codebank.wire import MalformedEvent, decode_event

_SCAN: Final = 2000


@dataclass
class PartitionEvents:
    """A partition's events up to the numbers that the bank had given out when it was read."""

    partition: int
    #: The last number that the bank gave out, per account of the partition.
    sequences: Mapping[UUID, int]
    #: Numbers per account, in the order of the log; then those that wait.
    on_log: dict[UUID, list[int]] = field(default_factory=dict)
    waiting: dict[UUID, list[int]] = field(default_factory=dict)
    payments: dict[UUID, PaymentFact] = field(default_factory=dict)
    #: How many events tell of each payment.
    changes: dict[UUID, int] = field(default_factory=dict)
    #: By which request each payment was made, as `request_mark` gives it; the first release did not tell.
    requests: dict[UUID, int] = field(default_factory=dict)
    #: How many events per account are of a payment, and do not tell of which in a way that is understood here.
    not_understood: dict[UUID, int] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)
    #: Events that are on the log more than once, or not where their account's others are.
    differences: list[Difference] = field(default_factory=list)
    #: Offsets of records that are no event of ours.
    unreadable: list[int] = field(default_factory=list)
    #: The last number per account that the connector has passed, and how many payments' events it has before it.
    passed: dict[UUID, int] = field(default_factory=dict)
    ahead: int = 0

    def add_record(self, record: Record, *, is_passed: bool) -> None:
        """Take note of a record of the log."""
        try:
            event = decode_event(record.headers, record.value)
        except MalformedEvent:
            self.unreadable.append(record.offset)
            return
        if record.key == key_of(event.account_id):
            self._add(event, self.on_log, is_passed=is_passed)
        else:
            # Its account never sees it: nobody looks for an account's events under another one's key.
            self.differences.append(
                Difference(
                    "misfiled",
                    event=event.event_id,
                    number=event.sequence,
                    account=event.account_id,
                    key=record.key.decode(errors="replace"),
                )
            )

    def add_waiting(self, row: asyncpg.Record) -> None:
        """Take note of a row of the outbox. Between ship and removal an event is on both: that is no repetition."""
        if row["event_id"].int in self.ids:
            return
        try:
            self._add(decode_event(headers_of(row), row["value"]), self.waiting, is_passed=False)
        except MalformedEvent:
            self.differences.append(Difference("malformed", account=row["account_id"], number=row["sequence"]))

    def _add(self, event: Event, numbers: dict[UUID, list[int]], *, is_passed: bool) -> None:
        """Take note of an event; what came after the bank was read is left out."""
        if event.event_id.int in self.ids:
            self.differences.append(Difference("repeated", event=event.event_id))
            return
        self.ids.add(event.event_id.int)
        if partition_of_account(event.account_id) != self.partition:
            self.differences.append(
                Difference("astray", event=event.event_id, account=event.account_id, partition=self.partition)
            )
            return
        if event.sequence > self.sequences.get(event.account_id, 0):
            return
        numbers.setdefault(event.account_id, []).append(event.sequence)
        if is_passed:
            self.passed[event.account_id] = event.sequence
        if isinstance(event, PaymentEvent):
            self.ahead += not is_passed
            self._add_payment(event)
        elif shape_of(event.type) is PaymentEvent:
            self.not_understood[event.account_id] = self.not_understood.get(event.account_id, 0) + 1

    def _add_payment(self, event: PaymentEvent) -> None:
        payment = event.payment
        before = self.payments.get(payment.payment_id)
        if event.cause is not None and event.cause.kind == Authorize.kind:
            cause = event.cause
            self.requests[payment.payment_id] = request_mark(cause.caller_id, cause.key_hash, cause.digest)
        self.changes[payment.payment_id] = self.changes.get(payment.payment_id, 0) + 1
        self.payments[payment.payment_id] = PaymentFact(
            account_id=event.account_id,
            payment_id=payment.payment_id,
            status=payment.status,
            amount_minor=payment.amount_minor,
            captured_minor=payment.captured_minor,
            refunded_minor=payment.refunded_minor,
            sequence=event.sequence,
            first_sequence=before.first_sequence if before else event.sequence,
            currency=payment.currency,
        )


def request_mark(caller_id: UUID, key_hash: str, digest: str) -> int:
    """Give what tells a request from every other in little room: the proof keeps one for each payment."""
    return hash((caller_id, key_hash, digest))


async def read_events(
    log: EventLog,
    partition: int,
    outbox: Sequence[asyncpg.Record],
    sequences: Mapping[UUID, int],
    committed: int,
) -> PartitionEvents:
    """Read a partition, then its accounts' outbox as it was before; `committed` is how far the connector was."""
    events = PartitionEvents(partition, sequences)
    end = (await log.ends(PAYMENTS_TOPIC, settled=True)).get(partition, 0)
    offset = 0
    while offset < end:
        records = await log.scan(PAYMENTS_TOPIC, partition, offset, _SCAN)
        if not records:
            break
        for record in records:
            events.add_record(record, is_passed=record.offset < committed)
        offset = records[-1].offset + 1
    for row in outbox:
        events.add_waiting(row)
    return events
