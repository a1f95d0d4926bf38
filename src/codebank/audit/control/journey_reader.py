"""Reads what every side knows of one payment. A side that does not answer is named, not waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from codebank.audit.control.event_finder import EventFinder
from codebank.audit.control.flow import PATIENCE_SECONDS
from codebank.audit.control.journey import Journey, PaymentSides, SeenEvent, journey_of
from codebank.audit.store import control as store
from codebank.audit.store.sides import SIDE_ERRORS, Sides
from codebank.errors import Code, CodebankError
from codebank.events import PaymentEvent
from codebank.wire import MalformedEvent, decode_event

Answer = TypeVar("Answer")


@dataclass
class _Asking:
    """Asks the sides, and notes which are silent."""

    silent: set[str] = field(default_factory=set)

    async def of(self, side: str, question: Awaitable[Answer], otherwise: Answer) -> Answer:
        with contextlib.suppress(*SIDE_ERRORS, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await question
        self.silent.add(side)
        return otherwise


@dataclass
class JourneyReader:
    """Follows one payment through every side."""

    sides: Sides
    finder: EventFinder

    async def read(self, any_id: UUID) -> Journey:
        """Follow a payment, named by its own id or by its order's.

        Raises CodebankError where nobody knows it, or nobody who might know it answers.
        """
        asking, sides = _Asking(), self.sides
        order = await asking.of("checkout", store.find_order(sides.checkout, any_id), None)
        payment_id = (order["payment_id"] if order else None) or any_id
        payment, line = await asyncio.gather(
            asking.of("bank", store.find_payment(sides.bank, payment_id, any_id), None),
            asking.of("statement", store.find_line(sides.statement, payment_id), None),
        )
        if order is None and payment is not None and (order_id := _uuid(payment["idempotency_key"])):
            order = await asking.of("checkout", store.find_order(sides.checkout, order_id), None)
        known = payment or line
        events = await self._events(asking, known) if known else ()
        found = PaymentSides(
            order=order,
            payment=payment,
            events=events,
            line=line,
            put_aside=await asking.of("statement", store.reasons_put_aside(sides.statement, _places(events)), {}),
            indexed=await asking.of("search", self._indexed(known["payment_id"]), None) if known else None,
            has_search=sides.search is not None,
            silent=frozenset(asking.silent),
        )
        journey = journey_of(found)
        if journey is None and asking.silent & {"bank", "checkout"}:
            raise CodebankError(
                Code.UNAVAILABLE, f"{' and '.join(sorted(asking.silent))} do not answer", hint="try again in a moment"
            )
        if journey is None:
            raise CodebankError(Code.NOT_FOUND, "no payment and no order has this id")
        return journey

    async def _events(self, asking: _Asking, known: Mapping[str, Any]) -> Sequence[SeenEvent]:
        account_id, payment_id = known["account_id"], known["payment_id"]
        count = known.get("version", 1)
        moments = {known["created_at"], known.get("updated_at", known["created_at"])}
        if count > len(moments):
            # A payment keeps its first moment and its last; what moved money in between is in the ledger.
            moments.update(await asking.of("bank", store.moments_moved(self.sides.bank, account_id, payment_id), []))
        waiting = await asking.of("bank", self._waiting(account_id, payment_id), ())
        on_log = await asking.of(
            "log", self.finder.find(account_id, payment_id, sorted(moments), count, waiting=len(waiting)), ()
        )
        # Between ship and removal an event is on both: the log's place counts.
        return list(({event.sequence: event for event in (*waiting, *on_log)}).values())

    async def _waiting(self, account_id: UUID, payment_id: UUID) -> Sequence[SeenEvent]:
        found = []
        for row in await store.waiting_events(self.sides.bank, account_id):
            with contextlib.suppress(MalformedEvent):
                event = decode_event({"ce_type": row["type"], "ce_id": str(row["event_id"])}, row["value"])
                if isinstance(event, PaymentEvent) and event.payment.payment_id == payment_id:
                    payment = event.payment
                    found.append(
                        SeenEvent(row["sequence"], payment.version, row["type"], payment.status, row["occurred_at"])
                    )
        return found

    async def _indexed(self, payment_id: UUID) -> Mapping[str, Any] | None:
        if self.sides.search is None:
            return None
        document = await self.sides.search.find(payment_id)
        if document is None or not isinstance(document["sequence"], int):
            return None
        written_at = document["occurred_at"] + timedelta(milliseconds=document["index_delay_milliseconds"] or 0)
        return {"sequence": document["sequence"], "written_at": written_at}


def _places(events: Sequence[SeenEvent]) -> list[tuple[int, int]]:
    places = [(event.partition, event.offset) for event in events]
    return [(partition, offset) for partition, offset in places if partition is not None and offset is not None]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
