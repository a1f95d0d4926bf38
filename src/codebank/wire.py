"""How things are written where they leave the process: ids, times, events.

Events travel as JSON in CloudEvents 1.0 binary form: the data in the value, the attributes in `ce_` headers
(CloudEvents Kafka protocol binding, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec
from asyncpg.pgproto.pgproto import UUID as DriverUUID
from msgspec.structs import replace
from uuid_utils import uuid7

from codebank.events import EVENT_TYPES, Event, PaymentEvent, PaymentState, PaymentStatus, key_of, shape_of

#: CloudEvents `source` of everything that the bank says.
SOURCE: Final = "/codebank/bank"
CONTENT_TYPE: Final = "application/json"
#: The record's header that names the trace an event belongs to, where that is recorded (W3C Trace Context).
TRACE_HEADER: Final = "traceparent"


class MalformedEvent(Exception):
    """A record that is no event of ours: the message says why."""


def new_id() -> UUID:
    """Make an identifier: UUID version 7, so that ids sort by the time of their making."""
    # The driver's kind of UUID, as rows have it: it is written ten times as fast as the standard library's.
    made: UUID = DriverUUID(uuid7().bytes)
    return made


def utc_now() -> datetime:
    """Read the clock. Only the edges call this; rules take `now` as an argument."""
    return datetime.now(UTC)


_encoder: Final = msgspec.json.Encoder()
_shapes: Final[set[type[Event]]] = {Event, *EVENT_TYPES.values()}
_decoders: Final = {shape: msgspec.json.Decoder(shape) for shape in _shapes}
#: What is said of a value that cannot be read: nested deeper than the interpreter can follow it is no event either.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
#: How our types begin; anything else is another program's.
_OURS: Final = "codebank."


def encode_event(event: Event) -> tuple[bytes, dict[str, str]]:
    """Write an event as the value and the headers of a record."""
    headers = event_headers(event.event_id, event.type, event.account_id, event.sequence, event.occurred_at)
    return event_value(event), headers


def event_value(event: Event) -> bytes:
    """Write the data of an event."""
    return _encoder.encode(event)


def event_headers(
    event_id: UUID, event_type: str, account_id: UUID, sequence: int, occurred_at: datetime
) -> dict[str, str]:
    """Write the attributes of an event as the headers of its record.

    `ce_sequence` (a documented extension of CloudEvents) orders the events of an account; `ce_payment` is there on
    events of payments only, for readers that can ask no more of a header than whether it is there.
    """
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(event_id),
        "ce_source": SOURCE,
        "ce_type": event_type,
        "ce_subject": str(account_id),
        "ce_time": occurred_at.isoformat(),
        "ce_sequence": str(sequence),
        "content-type": CONTENT_TYPE,
    }
    if shape_of(event_type) is PaymentEvent:
        headers["ce_payment"] = "true"
    return headers


def decode_event(headers: Mapping[str, str], value: bytes, key: bytes | None = None) -> Event:
    """Read an event back from a record; `key` is the record's, where it has one.

    A type that a newer bank made is read as what its name promises, or as an event that tells of its account only.
    Raises MalformedEvent when the record is of another program, does not fit, or is under another account's key.
    """
    event_type = headers.get("ce_type", "")
    if not event_type.startswith(_OURS):
        raise MalformedEvent(f"unknown event type {event_type[:80]!r}")
    event = _decode(event_type, value)
    if event.type != event_type or str(event.event_id) != headers.get("ce_id"):
        raise MalformedEvent("headers and value tell of different events")
    if event.sequence < 1:
        raise MalformedEvent(f"sequence {event.sequence} is not a number of an event")
    if key is not None and key != key_of(event.account_id):
        raise MalformedEvent(f"event of account {event.account_id} under another account's key")
    if isinstance(event, PaymentEvent) and not event.payment.version:
        return replace(event, payment=_completed(event.payment))
    return event


def _decode(event_type: str, value: bytes) -> Event:
    shape = shape_of(event_type)
    try:
        return _decoders[shape].decode(value)
    except UNREADABLE as error:
        if event_type in EVENT_TYPES:
            raise MalformedEvent(f"value does not fit {event_type}: {error}") from None
    try:
        # A newer bank may have filled its own shape otherwise; what every event carries still counts.
        return _decoders[Event].decode(value)
    except UNREADABLE as error:
        raise MalformedEvent(f"value does not fit {event_type[:80]}: {error}") from None


def _completed(payment: PaymentState) -> PaymentState:
    """Say what an event of the first release means: it charged at once, and gave back whole or not at all."""
    captured_minor = 0 if payment.status == PaymentStatus.DECLINED else payment.amount_minor
    return replace(payment, captured_minor=captured_minor, version=2 if payment.refunded_minor else 1)
