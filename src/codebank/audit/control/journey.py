"""A payment's journey: each stage, when it was reached, and what is still missing. Pure.

What later happens to a payment (it is given back, say) is one more change with stages of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final


class Standing(StrEnum):
    """How a stage stands."""

    DONE = "done"
    #: Reached, and the answer was no.
    REFUSED = "refused"
    WAITING = "waiting"
    FAILED = "failed"
    #: The side that knows does not answer.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a payment."""

    #: order, bank, event, log, line or search.
    name: str
    standing: Standing
    at: datetime | None = None
    #: Since the first stage; None where nobody kept the time.
    after_milliseconds: int | None = None
    #: The state that the payment got, an event's type, or why it failed.
    detail: str = ""
    #: The event's number on its account.
    sequence: int | None = None
    partition: int | None = None
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """An event of the payment, as it is seen in the outbox or on the log."""

    sequence: int
    #: Of the payment: which change it tells of, from 1.
    version: int
    type: str
    #: The state that the change gave the payment.
    status: str
    occurred_at: datetime
    #: Empty while it waits in the outbox.
    partition: int | None = None
    offset: int | None = None
    appended_at: datetime | None = None
    #: Of the trace that made it; empty where none was kept.
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class PaymentSides:
    """What every side says of one payment. A side that does not answer stands in `silent`."""

    order: Mapping[str, Any] | None
    payment: Mapping[str, Any] | None
    events: Sequence[SeenEvent]
    line: Mapping[str, Any] | None
    #: (partition, offset) → why nobody could read it.
    put_aside: Mapping[tuple[int, int], str]
    #: The search index's document: its sequence and when it was written.
    indexed: Mapping[str, Any] | None
    #: Whether a search index is part of the system.
    has_search: bool
    #: bank, checkout, log, statement, search.
    silent: frozenset[str]


@dataclass(frozen=True, slots=True)
class Journey:
    """A payment, and its stages in the order in which they come."""

    payment_id: str | None
    order_id: str | None
    status: str
    decline_code: str | None
    amount_minor: int
    currency: str
    merchant_name: str
    card_masked: str
    began_at: datetime
    stages: tuple[Stage, ...]
    silent: tuple[str, ...]
    trace_id: str

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to come that is known of."""
        return all(stage.standing not in (Standing.WAITING, Standing.UNKNOWN) for stage in self.stages)

    @property
    def lasted_milliseconds(self) -> int:
        """How long it took to the last stage that was reached."""
        return max((stage.after_milliseconds or 0 for stage in self.stages), default=0)


def journey_of(sides: PaymentSides) -> Journey | None:
    """Put the stages together; None where no side that answers knows the payment."""
    known = sides.payment or sides.line or sides.order
    if known is None:
        return None
    stages = [*_order(sides)]
    if sides.payment or sides.line:
        events = {event.version: event for event in sides.events}
        for version in range(1, max([1, (sides.payment or {}).get("version", 1), *events]) + 1):
            stages += _change(sides, version, events.get(version))
    else:
        stages.append(_undecided(sides))
    began_at: datetime = next((stage.at for stage in stages if stage.at), known["created_at"])
    shown = sides.payment or sides.line
    order = sides.order or {}
    return Journey(
        payment_id=str(shown["payment_id"]) if shown else None,
        order_id=str(order["order_id"]) if order else None,
        status=known["status"],
        decline_code=known["decline_code"],
        amount_minor=known["amount_minor"],
        currency=known["currency"],
        merchant_name=shown["merchant_name"] if shown else "",
        card_masked=known["card_masked"],
        began_at=began_at,
        stages=tuple(_timed(stage, began_at) for stage in stages),
        silent=tuple(sorted(sides.silent)),
        trace_id=next((event.trace_id for event in sides.events if event.trace_id), ""),
    )


def _order(sides: PaymentSides) -> list[Stage]:
    if sides.order is not None:
        return [Stage("order", Standing.DONE, sides.order["created_at"], detail=sides.order["status"])]
    # A merchant may keep its orders elsewhere: that none is here is no fault.
    return [Stage("order", Standing.UNKNOWN)] if "checkout" in sides.silent else []


def _undecided(sides: PaymentSides) -> Stage:
    """Say how an order stands at the bank that has no payment there."""
    order = sides.order or {}
    if "bank" not in sides.silent and order.get("settled_at") is not None:
        return Stage("bank", Standing.FAILED, order["settled_at"], detail=order["status"])
    return Stage("bank", _missing(sides, "bank"))


def _change(sides: PaymentSides, version: int, event: SeenEvent | None) -> list[Stage]:
    """Give the stages of one change: decided, its event numbered, on the log, on the statement, in the index."""
    away = _missing(sides, "bank", "log")
    stages = [_bank(sides, version, event)]
    if event is None:
        stages += [Stage("event", away), Stage("log", away)]
    else:
        on_log = event.appended_at is not None
        stages += [
            Stage("event", Standing.DONE, event.occurred_at, detail=event.type, sequence=event.sequence),
            Stage(
                "log",
                Standing.DONE if on_log else away,
                event.appended_at,
                sequence=event.sequence,
                partition=event.partition,
                offset=event.offset,
            ),
        ]
    stages.append(_line(sides, version, event))
    if sides.has_search:
        stages.append(_index(sides, version, event))
    return stages


def _missing(sides: PaymentSides, *asked: str) -> Standing:
    """Say how a stage stands that was not found at these sides."""
    return Standing.UNKNOWN if sides.silent.intersection(asked) else Standing.WAITING


def _bank(sides: PaymentSides, version: int, event: SeenEvent | None) -> Stage:
    payment = sides.payment
    if payment is None and event is None:
        return Stage("bank", _missing(sides, "bank"))
    is_last = payment is not None and version == payment["version"]
    if payment is not None and is_last and payment["decline_code"] is not None:
        return Stage("bank", Standing.REFUSED, payment["updated_at"], detail=payment["decline_code"])
    if event is not None:
        return Stage("bank", Standing.DONE, event.occurred_at, detail=event.status)
    assert payment is not None
    at = payment["created_at"] if version == 1 else payment["updated_at"] if is_last else None
    return Stage("bank", Standing.DONE, at, detail=payment["status"] if is_last else "")


def _line(sides: PaymentSides, version: int, event: SeenEvent | None) -> Stage:
    line = sides.line
    if "statement" in sides.silent:
        return Stage("line", Standing.UNKNOWN)
    if line is not None and (version == 1 if event is None else line["sequence"] >= event.sequence):
        # The line keeps when it came first; what changed it later left no time.
        is_first = event is None or event.sequence == line["first_sequence"]
        return Stage("line", Standing.DONE, line["projected_at"] if is_first else None)
    if event is not None and event.partition is not None and event.offset is not None:
        reason = sides.put_aside.get((event.partition, event.offset))
        if reason is not None:
            return Stage("line", Standing.FAILED, detail=reason)
    return Stage("line", Standing.WAITING if event is not None else _missing(sides, "bank", "log"))


def _index(sides: PaymentSides, version: int, event: SeenEvent | None) -> Stage:
    indexed = sides.indexed
    if "search" in sides.silent:
        return Stage("search", Standing.UNKNOWN)
    if indexed is not None and (version == 1 if event is None else indexed["sequence"] >= event.sequence):
        is_last = event is None or event.sequence == indexed["sequence"]
        return Stage("search", Standing.DONE, indexed["written_at"] if is_last else None)
    return Stage("search", Standing.WAITING if event is not None else _missing(sides, "bank", "log"))


def _timed(stage: Stage, began_at: datetime) -> Stage:
    if stage.at is None:
        return stage
    # Each side has a clock of its own: one may be a little behind, and no stage comes before the first.
    return replace(stage, after_milliseconds=max(0, round((stage.at - began_at).total_seconds() * 1000)))


#: How wide the drawing of a journey is.
BAR_WIDTH: Final = 1000
_NARROWEST: Final = 6


def bars_of(journey: Journey) -> list[tuple[int, int] | None]:
    """Say where each stage's bar begins and how long it is: from the stage before, as a share of the whole."""
    whole = max(1, journey.lasted_milliseconds)
    bars: list[tuple[int, int] | None] = []
    before = 0
    for stage in journey.stages:
        if stage.after_milliseconds is None:
            bars.append(None)
            continue
        # Stages may overtake each other: the index is filled beside the statement.
        begin, end = min(before, stage.after_milliseconds), stage.after_milliseconds
        left = min(begin * BAR_WIDTH // whole, BAR_WIDTH - _NARROWEST)
        bars.append((left, max(_NARROWEST, end * BAR_WIDTH // whole - left)))
        before = max(before, stage.after_milliseconds)
    return bars
