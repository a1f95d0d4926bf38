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
from uuid_utils.compat import uuid7

from codebank.events import EVENT_TYPES, Event

#: CloudEvents `source` of everything that the bank says.
SOURCE: Final = "/codebank/bank"
CONTENT_TYPE: Final = "application/json"


class MalformedEvent(Exception):
    """A record that is no event of ours: the message says why."""


def new_id() -> UUID:
    """Make an identifier: UUID version 7, so that ids sort by the time of their making."""
    return uuid7()


def utc_now() -> datetime:
    """Read the clock. Only the edges call this; rules take `now` as an argument."""
    return datetime.now(UTC)


_encoder: Final = msgspec.json.Encoder()
_decoders: Final = {shape: msgspec.json.Decoder(shape) for shape in set(EVENT_TYPES.values())}


def encode_event(event: Event) -> tuple[bytes, dict[str, str]]:
    """Write an event as the value and the headers of a record."""
    return event_value(event), event_headers(event.event_id, event.type, event.account_id, event.occurred_at)


def event_value(event: Event) -> bytes:
    """Write the data of an event."""
    return _encoder.encode(event)


def event_headers(event_id: UUID, event_type: str, account_id: UUID, occurred_at: datetime) -> dict[str, str]:
    """Write the attributes of an event as the headers of its record."""
    return {
        "ce_specversion": "1.0",
        "ce_id": str(event_id),
        "ce_source": SOURCE,
        "ce_type": event_type,
        "ce_subject": str(account_id),
        "ce_time": occurred_at.isoformat(),
        "content-type": CONTENT_TYPE,
    }


def decode_event(headers: Mapping[str, str], value: bytes) -> Event:
    """Read an event back from a record.

    Raises MalformedEvent when the record is of another program, of an unknown type, or its value does not fit.
    """
    event_type = headers.get("ce_type", "")
    shape = EVENT_TYPES.get(event_type)
    if shape is None:
        raise MalformedEvent(f"unknown event type {event_type[:80]!r}")
    try:
        event = _decoders[shape].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedEvent(f"value does not fit {event_type}: {error}") from None
    if event.type != event_type or str(event.event_id) != headers.get("ce_id"):
        raise MalformedEvent("headers and value tell of different events")
    if event.sequence < 1:
        raise MalformedEvent(f"sequence {event.sequence} is not a number of an event")
    return event
