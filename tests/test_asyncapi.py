"""docs/asyncapi.json tells of the events as they really are."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from codebank.events import EVENT_TYPES, Event
from codebank.lab.asyncapi import asyncapi_document, asyncapi_text
from codebank.wire import encode_event
from tests.statement.desk import Story

DOCUMENT = asyncapi_document()
EVENTS = Story().opened().paid(5_490).declined(9).events


def test_the_document_is_up_to_date() -> None:
    path = Path(__file__).parent.parent / "docs" / "asyncapi.json"
    assert path.read_text(encoding="utf-8") == asyncapi_text(), "run `make reference`"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_event_as_it_is_sent_is_an_event_as_it_is_told(event: Event) -> None:
    value, headers = encode_event(event)
    messages = {message["name"]: message for message in DOCUMENT["components"]["messages"].values()}
    message = messages[event.type]

    jsonschema.validate(json.loads(value), {**message["payload"], "components": DOCUMENT["components"]})
    jsonschema.validate(headers, {**message["headers"], "additionalProperties": False})


def test_every_event_type_is_told_of() -> None:
    told = {message["name"] for message in DOCUMENT["components"]["messages"].values()}
    assert told == set(EVENT_TYPES)
    references = [one["$ref"] for one in DOCUMENT["channels"]["payments"]["messages"].values()]
    assert {reference.rsplit("/", 1)[1] for reference in references} == set(DOCUMENT["components"]["messages"])
