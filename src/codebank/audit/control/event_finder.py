"""Finds a payment's events on the log, without reading all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from codebank.audit.control.journey import Told
from codebank.eventlog.log import EventLog, Record, partition_of
from codebank.events import PAYMENTS_TOPIC, PaymentEvent, key_of
from codebank.runtime.watch.tracing import trace_id_of
from codebank.wire import TRACE_HEADER, MalformedEvent, decode_event

#: Records that are read after a payment's time at most; what came later than that is not found.
_RECORDS_MAX: Final = 20_000
_PIECE: Final = 1000
_REMEMBERED_MAX: Final = 500
#: The log's clock may be so much behind the bank's.
_CLOCKS_APART: Final = timedelta(seconds=2)


@dataclass
class Trail:
    """Remembers what was found: a page that is open looks again and again, and the log never changes."""

    log: EventLog
    _found: OrderedDict[UUID, dict[int, Told]] = field(default_factory=OrderedDict)

    async def follow(self, account_id: UUID, payment_id: UUID, moments: Sequence[datetime]) -> list[Told]:
        """Find the payment's events: one for each of the moments at which it changed."""
        told = self._found.setdefault(payment_id, {})
        self._found.move_to_end(payment_id)
        while len(self._found) > _REMEMBERED_MAX:
            self._found.popitem(last=False)
        key = key_of(account_id)
        partition = partition_of(key)
        for moment in moments:
            if any(one.occurred_at == moment for one in told.values()):
                continue
            event = await self._look(key, partition, payment_id, moment)
            if event is not None:
                told[event.sequence] = event
        return list(told.values())

    async def _look(self, key: bytes, partition: int, payment_id: UUID, moment: datetime) -> Told | None:
        offset = await self._begin(partition, moment - _CLOCKS_APART)
        seen = 0
        while seen < _RECORDS_MAX:
            records = await self.log.scan(PAYMENTS_TOPIC, partition, offset, _PIECE)
            if not records:
                return None
            for record in records:
                # An event is at least as late as the change: an earlier one tells of an earlier change.
                if record.key == key and (told := _told(record, payment_id)) and told.occurred_at >= moment:
                    return told
            seen += len(records)
            offset = records[-1].offset + 1
        return None

    async def _begin(self, partition: int, moment: datetime) -> int:
        """Find where the log came to that moment, halving what is left each time."""
        low, high = 0, (await self.log.ends(PAYMENTS_TOPIC)).get(partition, 0)
        while high - low > _PIECE:
            middle = (low + high) // 2
            records = await self.log.scan(PAYMENTS_TOPIC, partition, middle, 1)
            if not records or records[0].appended_at >= moment:
                high = middle
            else:
                low = middle
        return low


def _told(record: Record, payment_id: UUID) -> Told | None:
    try:
        event = decode_event(record.headers, record.value)
    except MalformedEvent:
        return None
    if not isinstance(event, PaymentEvent) or event.payment.payment_id != payment_id:
        return None
    return Told(
        sequence=event.sequence,
        type=event.type,
        occurred_at=event.occurred_at,
        partition=record.partition,
        offset=record.offset,
        appended_at=record.appended_at,
        trace_id=trace_id_of(record.headers.get(TRACE_HEADER, "")),
    )
