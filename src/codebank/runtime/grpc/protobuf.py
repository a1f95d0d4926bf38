"""Finds which field of a protobuf message cannot be read, so that its sender can be told its name."""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor


def broken_field(descriptor: Descriptor, data: bytes) -> str:
    """Name the first field of the message's bytes that is no UTF-8 text or is cut short, or `request`."""
    return _walk(descriptor, data, "") or "request"


def _walk(descriptor: Descriptor, data: bytes, prefix: str) -> str:
    position = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            field = descriptor.fields_by_number.get(tag >> 3)
            name = f"{prefix}{field.name}" if field else prefix.rstrip(".")
            chunk, position = _value(tag & 7, data, position)
            if position > len(data):
                return name
            if field is not None and chunk is not None and (broken := _check(field, chunk, name)):
                return broken
    except (IndexError, ValueError):
        return prefix.rstrip(".")
    return ""


def _check(field: FieldDescriptor, chunk: bytes, name: str) -> str:
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            chunk.decode()
        except UnicodeDecodeError:
            return name
    if field.message_type is not None:
        return _walk(field.message_type, chunk, f"{name}.")
    return ""


def _value(wire_type: int, data: bytes, position: int) -> tuple[bytes | None, int]:
    match wire_type:
        case 0:
            return None, _varint(data, position)[1]
        case 1:
            return None, position + 8
        case 2:
            size, position = _varint(data, position)
            return data[position : position + size], position + size
        case 5:
            return None, position + 4
    raise ValueError(f"wire type {wire_type}")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
    raise ValueError("a number of more than ten bytes")
