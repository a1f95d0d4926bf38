"""What the release before said, as it said it: calls, answers and events, with its own messages to read them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2

CALLS: Final = Path(__file__).parent / "recorded" / "calls.json"
EVENTS: Final = Path(__file__).parent / "recorded" / "events.json"


@dataclass
class Messages:
    """The messages of one release, made from its descriptor, beside those that this release was built with."""

    #: The descriptor of its bank.proto, serialized.
    descriptor: bytes
    _pool: descriptor_pool.DescriptorPool = field(default_factory=descriptor_pool.DescriptorPool)

    def __post_init__(self) -> None:
        self._add(timestamp_pb2.DESCRIPTOR)
        self._add(status_pb2.DESCRIPTOR)
        self._pool.AddSerializedFile(self.descriptor)

    def _add(self, file: Any) -> None:
        for needed in file.dependencies:
            self._add(needed)
        self._pool.AddSerializedFile(file.serialized_pb)

    def of(self, name: str) -> type[Message]:
        """Give the class of a message."""
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"codebank.v1.{name}"))

    def write(self, name: str, document: Mapping[str, Any]) -> bytes:
        """Serialize a message from its JSON."""
        return json_format.ParseDict(dict(document), self.of(name)()).SerializeToString()

    def read(self, name: str, content: bytes) -> dict[str, Any]:
        """Read a message as this release does: what it does not know it does not see."""
        return json_format.MessageToDict(self.of(name).FromString(content))


def names_in(descriptor: bytes) -> set[str]:
    """Give the methods that a release's bank has."""
    file = descriptor_pb2.FileDescriptorProto.FromString(descriptor)
    return {method.name for service in file.service for method in service.method}


@dataclass(frozen=True)
class Call:
    """One call of the release before, and what came back."""

    rpc: str
    #: merchant, operator or nobody.
    caller: str
    request: Mapping[str, Any]
    #: None where it was refused.
    answer: Mapping[str, Any] | None = None
    #: gRPC's status, our reason, and the fields that were wrong.
    refusal: Mapping[str, Any] | None = None


def recorded_calls() -> tuple[Messages, list[Call]]:
    """Read the calls in the order in which they were made."""
    kept = json.loads(CALLS.read_text(encoding="utf-8"))
    return Messages(base64.b64decode(kept["descriptor"])), [Call(**call) for call in kept["calls"]]


def recorded_events() -> list[dict[str, Any]]:
    """Read the events of one account as they were on the log: key, headers, value."""
    found: list[dict[str, Any]] = json.loads(EVENTS.read_text(encoding="utf-8"))
    return found


def replaced(document: Any, change: Callable[[str], str]) -> Any:
    """Give a document with each of its texts changed."""
    if isinstance(document, dict):
        return {name: replaced(value, change) for name, value in document.items()}
    if isinstance(document, list):
        return [replaced(value, change) for value in document]
    return change(document) if isinstance(document, str) else document
