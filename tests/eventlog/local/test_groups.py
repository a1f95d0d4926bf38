"""What Kafka tells of a group, as bytes."""

from __future__ import annotations

import struct

import pytest

from codebank.eventlog.kafka.groups import assigned_of


def _array(numbers: list[int]) -> bytes:
    return struct.pack(f">{len(numbers) + 1}i", len(numbers), *numbers)


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text.encode())) + text.encode()


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_members_share_is_read_in_every_version(version: int) -> None:
    user_data = struct.pack(">i", -1)
    body = _text("payments") + _array([0, 7, 11]) + _text("pagões") + _array([])
    assignment = struct.pack(">hi", version, 2) + body + user_data

    assert assigned_of(assignment) == {"payments": (0, 7, 11), "pagões": ()}


def test_a_member_that_waits_for_its_share_has_none() -> None:
    assert assigned_of(b"") == {}
    assert assigned_of(struct.pack(">hi", 1, 0)) == {}
