"""Writes docs/asyncapi.json from the events' own types: what is on which topic, for readers of other programs."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from codebank.eventlog.log import PARTITIONS
from codebank.events import DEAD_LETTERS_TOPIC, EVENT_TYPES, PAYMENTS_TOPIC, Event
from codebank.wire import CONTENT_TYPE, SOURCE, TRACE_HEADER

_HEADERS = {
    "ce_specversion": {"const": "1.0"},
    "ce_id": {"type": "string", "format": "uuid", "description": "The event's id; each is on the log once."},
    "ce_source": {"const": SOURCE},
    "ce_type": {"type": "string"},
    "ce_subject": {"type": "string", "format": "uuid", "description": "The account's id, as in the key."},
    "ce_time": {"type": "string", "format": "date-time"},
    "ce_sequence": {"type": "string", "pattern": "^[1-9][0-9]*$", "description": "1, 2, 3 … per account, no gap."},
    "content-type": {"const": CONTENT_TYPE},
}


def asyncapi_text() -> str:
    """Write the whole document."""
    return json.dumps(asyncapi_document(), ensure_ascii=False, indent=2) + "\n"


def asyncapi_document() -> dict[str, Any]:
    """Describe the topics and their messages (AsyncAPI 3.0)."""
    shapes = sorted(set(EVENT_TYPES.values()), key=lambda shape: shape.__name__)
    references, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    schemas = dict(zip((shape.__name__ for shape in shapes), references, strict=True))
    messages = {name: _message(name, shape, schemas[shape.__name__]) for name, shape in EVENT_TYPES.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Codebank events",
            "version": "1.0.0",
            "description": "Facts about accounts, as JSON in CloudEvents 1.0 binary form (Kafka protocol binding).",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "payments": {
                "address": PAYMENTS_TOPIC,
                "description": "Every event of every account, in order per account; kept for ever.",
                "messages": {_name(name): {"$ref": f"#/components/messages/{_name(name)}"} for name in EVENT_TYPES},
                "bindings": {"kafka": {"partitions": PARTITIONS}},
            },
            "deadLetters": {
                "address": DEAD_LETTERS_TOPIC,
                "description": "Records that nobody could read, as they were, with `dead_letter_*` headers.",
            },
        },
        "operations": {"publishEvents": {"action": "send", "channel": {"$ref": "#/channels/payments"}}},
        "components": {"messages": {_name(name): message for name, message in messages.items()}, "schemas": components},
    }


def _name(event_type: str) -> str:
    return "".join(part.capitalize() for part in event_type.split(".")[1:])


def _message(event_type: str, shape: type[Event], schema: dict[str, Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {**_HEADERS, "ce_type": {"const": event_type}}
    if "payment" in shape.__struct_fields__:
        headers["ce_payment"] = {"const": "true", "description": "On events of payments only."}
    required = sorted(headers)
    headers[TRACE_HEADER] = {
        "type": "string",
        "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-01$",
        "description": "The trace that the event belongs to (W3C Trace Context); only where that is recorded.",
    }
    return {
        "name": event_type,
        "title": (shape.__doc__ or "").strip().splitlines()[0],
        "headers": {"type": "object", "required": required, "properties": headers},
        "payload": schema,
        "bindings": {"kafka": {"key": {"type": "string", "format": "uuid", "description": "The account's id."}}},
    }
