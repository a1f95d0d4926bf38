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
class Told:
    """An event of the payment, in the outbox or on the log."""

    sequence: int
    type: str
    occurred_at: datetime
    #: Empty while it waits in the outbox.
    partition: int | None = None
    offset: int | None = None
    appended_at: datetime | None = None
    #: Of the trace that made it; empty where none was kept.
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What every side says of one payment. A side that does not answer stands in `silent`."""

    order: Mapping[str, Any] | None
    payment: Mapping[str, Any] | None
    told: Sequence[Told]
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


def journey_of(found: Found) -> Journey | None:
    """Put the stages together; None where no side that answers knows the payment."""
    known = found.payment or found.line or found.order
    if known is None:
        return None
    stages = [*_order(found), *_bank(found)]
    if found.payment or found.line:
        for place, told in enumerate(_changes(found)):
            if place and found.payment and told is not None:
                stages.append(Stage("bank", Standing.DONE, told.occurred_at, detail=told.type.rpartition(".")[2]))
            stages += _change(found, told)
    began_at: datetime = next((stage.at for stage in stages if stage.at), known["created_at"])
    shown = found.payment or found.line
    order = found.order or {}
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
        silent=tuple(sorted(found.silent)),
        trace_id=next((told.trace_id for told in found.told if told.trace_id), ""),
    )


def _order(found: Found) -> list[Stage]:
    if found.order is not None:
        return [Stage("order", Standing.DONE, found.order["created_at"], detail=found.order["status"])]
    # A merchant may keep its orders elsewhere: that none is here is no fault.
    return [Stage("order", Standing.UNKNOWN)] if "checkout" in found.silent else []


def _bank(found: Found) -> list[Stage]:
    payment = found.payment
    if payment is not None:
        refused = payment["status"] == "declined"
        standing = Standing.REFUSED if refused else Standing.DONE
        return [
            Stage("bank", standing, payment["created_at"], detail=payment["decline_code"] if refused else "approved")
        ]
    if "bank" in found.silent:
        return [Stage("bank", Standing.UNKNOWN)]
    order = found.order or {}
    if order.get("settled_at") is not None:
        return [Stage("bank", Standing.FAILED, order["settled_at"], detail=order["status"])]
    return [Stage("bank", Standing.WAITING)]


def _changes(found: Found) -> list[Told | None]:
    """Give each change's event, and None for each that must come and was not found."""
    told: list[Told | None] = [*sorted(found.told, key=lambda one: one.sequence)]
    payment = found.payment or {}
    expected = 2 if payment.get("status") == "refunded" else 1
    return told + [None] * (expected - len(told))


def _change(found: Found, told: Told | None) -> list[Stage]:
    """Give the stages of one event: numbered, on the log, on the statement, in the index."""
    away = Standing.UNKNOWN if found.silent & {"bank", "log"} else Standing.WAITING
    if told is None:
        stages = [Stage("event", away), Stage("log", away)]
    else:
        stages = [Stage("event", Standing.DONE, told.occurred_at, detail=told.type, sequence=told.sequence)]
        on_log = told.appended_at is not None
        stages.append(
            Stage(
                "log",
                Standing.DONE if on_log else away,
                told.appended_at,
                sequence=told.sequence,
                partition=told.partition,
                offset=told.offset,
            )
        )
    stages.append(_line(found, told))
    if found.has_search:
        stages.append(_index(found, told))
    return stages


def _line(found: Found, told: Told | None) -> Stage:
    if "statement" in found.silent:
        return Stage("line", Standing.UNKNOWN)
    line = found.line
    if line is not None and (told is None or line["sequence"] >= told.sequence):
        # The line keeps when it came first; what changed it later left no time.
        is_first = told is None or told.sequence == line["first_sequence"]
        return Stage("line", Standing.DONE, line["projected_at"] if is_first else None)
    if told is not None and told.partition is not None and told.offset is not None:
        reason = found.put_aside.get((told.partition, told.offset))
        if reason is not None:
            return Stage("line", Standing.FAILED, detail=reason)
    return Stage("line", Standing.WAITING)


def _index(found: Found, told: Told | None) -> Stage:
    if "search" in found.silent:
        return Stage("search", Standing.UNKNOWN)
    indexed = found.indexed
    if indexed is not None and (told is None or indexed["sequence"] >= told.sequence):
        is_last = told is None or told.sequence == indexed["sequence"]
        return Stage("search", Standing.DONE, indexed["written_at"] if is_last else None)
    return Stage("search", Standing.WAITING)


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
