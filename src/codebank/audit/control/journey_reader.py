"""Reads what every side knows of one payment. A side that does not answer is named, not waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from codebank.audit.control.event_finder import Trail
from codebank.audit.control.flow import PATIENCE_SECONDS
from codebank.audit.control.journey import Found, Journey, Told, journey_of
from codebank.audit.store import SIDE_ERRORS, Sides
from codebank.errors import Code, CodebankError
from codebank.events import PAYMENTS_TOPIC, PaymentEvent
from codebank.wire import MalformedEvent, decode_event

Answer = TypeVar("Answer")

_OUTBOX_MAX = 2000


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
class Timeline:
    """Follows one payment through every side."""

    sides: Sides
    trail: Trail

    async def read(self, any_id: UUID) -> Journey:
        """Follow a payment, named by its own id or by its order's.

        Raises CodebankError where nobody knows it, or nobody who might know it answers.
        """
        asking = _Asking()
        order = await asking.of("checkout", self._order(any_id), None)
        payment_id = (order["payment_id"] if order else None) or any_id
        payment, line = await asyncio.gather(
            asking.of("bank", self._payment(payment_id, any_id), None),
            asking.of("statement", self._line(payment_id), None),
        )
        if order is None and payment is not None and (order_id := _uuid(payment["idempotency_key"])):
            order = await asking.of("checkout", self._order(order_id), None)
        told = await self._told(asking, payment or line)
        document = None
        if payment is not None or line is not None:
            document = await asking.of("search", self._indexed((payment or line or {})["payment_id"]), None)
        found = Found(
            order=order,
            payment=payment,
            told=told,
            line=line,
            put_aside=await asking.of("statement", self._put_aside(told), {}) if told and line is None else {},
            indexed=document,
            has_search=self.sides.search is not None,
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

    async def _order(self, any_id: UUID) -> Mapping[str, Any] | None:
        row = await self.sides.checkout.fetchrow(
            "select order_id, payment_id, status, decline_code, total_minor as amount_minor, currency, card_masked,"
            " created_at, settled_at from orders where order_id = $1 or payment_id = $1",
            any_id,
        )
        return dict(row) if row else None

    async def _payment(self, payment_id: UUID, order_id: UUID) -> Mapping[str, Any] | None:
        # An order whose answer was lost does not know its payment yet; the bank knows it by the order's key.
        row = await self.sides.bank.fetchrow(
            "select account_id, payment_id, idempotency_key, status, decline_code, amount_minor, currency,"
            " merchant_name, card_masked, created_at, updated_at from payment where payment_id = $1"
            " or payment_id = (select k.payment_id from merchant m join idempotency_key k"
            " on k.merchant_id = m.merchant_id and k.key = $2 where k.payment_id is not null limit 1) limit 1",
            payment_id,
            str(order_id),
        )
        return dict(row) if row else None

    async def _line(self, payment_id: UUID) -> Mapping[str, Any] | None:
        row = await self.sides.statement.fetchrow(
            "select account_id, payment_id, status, decline_code, amount_minor, currency, merchant_name, card_masked,"
            " sequence, first_sequence, projected_at, occurred_at as created_at from line where payment_id = $1",
            payment_id,
        )
        return dict(row) if row else None

    async def _told(self, asking: _Asking, known: Mapping[str, Any] | None) -> Sequence[Told]:
        if known is None:
            return ()
        account_id, payment_id = known["account_id"], known["payment_id"]
        moments = [known["created_at"]]
        if known.get("updated_at", moments[0]) > moments[0]:
            moments.append(known["updated_at"])
        waiting = await asking.of("bank", self._waiting(account_id, payment_id), ())
        on_log = await asking.of("log", self.trail.follow(account_id, payment_id, moments), ())
        # Between ship and removal an event is on both: the log's place counts.
        return list(({told.sequence: told for told in waiting} | {told.sequence: told for told in on_log}).values())

    async def _waiting(self, account_id: UUID, payment_id: UUID) -> Sequence[Told]:
        rows = await self.sides.bank.fetch(
            "select sequence, type, occurred_at, event_id, value from outbox where account_id = $1"
            f" order by sequence limit {_OUTBOX_MAX}",
            account_id,
        )
        told = []
        for row in rows:
            with contextlib.suppress(MalformedEvent):
                event = decode_event({"ce_type": row["type"], "ce_id": str(row["event_id"])}, row["value"])
                if isinstance(event, PaymentEvent) and event.payment.payment_id == payment_id:
                    told.append(Told(row["sequence"], row["type"], row["occurred_at"]))
        return told

    async def _put_aside(self, told: Sequence[Told]) -> Mapping[tuple[int, int], str]:
        rows = await self.sides.statement.fetch(
            'select d.partition, d."offset", d.reason from dead_letter d'
            ' join unnest($2::int[], $3::bigint[]) as n(partition, "offset") using (partition, "offset")'
            " where d.topic = $1 and d.replayed_at is null",
            PAYMENTS_TOPIC,
            [one.partition for one in told if one.partition is not None],
            [one.offset for one in told if one.offset is not None],
        )
        return {(row["partition"], row["offset"]): row["reason"] for row in rows}

    async def _indexed(self, payment_id: UUID) -> Mapping[str, Any] | None:
        if self.sides.search is None:
            return None
        document = await self.sides.search.find(payment_id)
        if document is None:
            return None
        written_at = document["occurred_at"] + timedelta(milliseconds=document["index_delay_milliseconds"] or 0)
        return {"sequence": document["sequence"], "written_at": written_at}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
