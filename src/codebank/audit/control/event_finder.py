"""Finds a payment's events on the log, without reading all of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from codebank.audit.control.journey import SeenEvent
from codebank.eventlog.log import EventLog, Record, partition_of
from codebank.events import PAYMENTS_TOPIC, PaymentEvent, key_of
from codebank.runtime.watch.tracing import trace_id_of
from codebank.wire import TRACE_HEADER, MalformedEvent, decode_event

_PIECE: Final = 1000
#: Pieces that are read from a change's time on, and before it, at most; what lies further away is not found.
_PIECES_MAX: Final = 20
_REMEMBERED_MAX: Final = 500
#: The log's clock may be so much behind the bank's.
_CLOCKS_APART: Final = timedelta(seconds=2)


@dataclass
class EventFinder:
    """Remembers what was found: a page that is open looks again and again, and the log never changes."""

    log: EventLog
    _found: OrderedDict[UUID, dict[int, SeenEvent]] = field(default_factory=OrderedDict)

    async def find(
        self, account_id: UUID, payment_id: UUID, moments: Sequence[datetime], count: int, *, waiting: int
    ) -> list[SeenEvent]:
        """Find the payment's events in order: `count` of them, of these moments; `waiting` may not be there yet."""
        search = _Search(self.log, key_of(account_id), payment_id, self._remembered(payment_id), count)
        for moment in moments:
            if not search.is_over:
                await search.look_from(moment)
        if len(search.found) < count - waiting:
            # A clock that was set back has put them where nobody would look for their time.
            await search.look_before(moments[0])
        return [search.found[number] for number in sorted(search.found)]

    def _remembered(self, payment_id: UUID) -> dict[int, SeenEvent]:
        found = self._found.setdefault(payment_id, {})
        self._found.move_to_end(payment_id)
        while len(self._found) > _REMEMBERED_MAX:
            self._found.popitem(last=False)
        return found


@dataclass
class _Search:
    """A look at the partition of one payment's account."""

    log: EventLog
    key: bytes
    payment_id: UUID
    #: By the event's number.
    found: dict[int, SeenEvent]
    count: int

    @property
    def is_over(self) -> bool:
        return len(self.found) >= self.count

    async def look_from(self, moment: datetime) -> None:
        """Read on from a moment, and one piece further than the event of then: others may be of the same moment."""
        if any(event.occurred_at == moment for event in self.found.values()):
            return
        offset, is_there = await self._offset_at(moment - _CLOCKS_APART), False
        for _ in range(_PIECES_MAX):
            records = await self._read(offset)
            if not records or is_there or self.is_over:
                return
            is_there = any(event.occurred_at >= moment for event in self.found.values())
            offset = records[-1].offset + 1

    async def look_before(self, moment: datetime) -> None:
        """Read backwards from a moment."""
        offset = await self._offset_at(moment - _CLOCKS_APART)
        for _ in range(_PIECES_MAX):
            if self.is_over or offset <= 0:
                return
            offset = max(0, offset - _PIECE)
            await self._read(offset)

    async def _read(self, offset: int) -> Sequence[Record]:
        """Read a piece, and take note of the payment's events."""
        records = await self.log.scan(PAYMENTS_TOPIC, partition_of(self.key), offset, _PIECE)
        for record in records:
            if record.key == self.key and (event := _event_in(record, self.payment_id)):
                self.found[event.sequence] = event
        return records

    async def _offset_at(self, moment: datetime) -> int:
        """Find where the log came to a moment, halving what is left each time."""
        partition = partition_of(self.key)
        low, high = 0, (await self.log.ends(PAYMENTS_TOPIC)).get(partition, 0)
        while high - low > _PIECE:
            middle = (low + high) // 2
            records = await self.log.scan(PAYMENTS_TOPIC, partition, middle, 1)
            if not records or records[0].appended_at >= moment:
                high = middle
            else:
                low = middle
        return low


def _event_in(record: Record, payment_id: UUID) -> SeenEvent | None:
    try:
        event = decode_event(record.headers, record.value, record.key)
    except MalformedEvent:
        return None
    if not isinstance(event, PaymentEvent) or event.payment.payment_id != payment_id:
        return None
    return SeenEvent(
        sequence=event.sequence,
        version=event.payment.version,
        type=event.type,
        status=event.payment.status,
        occurred_at=event.occurred_at,
        partition=record.partition,
        offset=record.offset,
        appended_at=record.appended_at,
        trace_id=trace_id_of(record.headers.get(TRACE_HEADER, "")),
    )
