"""What Kafka says, without brokers: it is asked until it agrees with itself; whatever a record tells is read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from confluent_kafka import Message

from codebank.errors import CodebankError
from codebank.eventlog.kafka import topics
from codebank.eventlog.kafka.looker import record_of


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "_ASK_AGAIN_SECONDS", 0)


@pytest.mark.parametrize(("said", "believed"), [
    ([1, 1, 1], 1),
    # A broker that has not heard of it yet, asked first; one that does not answer; one that is behind again.
    ([1, 2, 2, 2], 2), ([1, 1, 2, 1, 1, 2, 2, 2], 2), ([None, None, None, 2, 2, None, 2, 2, 2], 2),
])  # fmt: skip
def test_trap_c16_the_first_answer_after_a_change_is_not_believed(said: Sequence[int | None], believed: int) -> None:
    answers = iter(said)

    assert topics.agreed(lambda: next(answers), "they differ") == believed
    assert list(answers) == []


@pytest.mark.parametrize("said", [[1, 2], [None]])
def test_who_never_agrees_is_told_within_a_limit(said: Sequence[int | None]) -> None:
    answers = itertools.cycle(said)

    with pytest.raises(CodebankError, match="they differ"):
        topics.agreed(lambda: next(answers), "they differ", seconds=0.1)


@pytest.mark.parametrize(("milliseconds", "moment"), [
    (1_795_000_000_123, datetime(2026, 11, 18, 11, 6, 40, 123_000, tzinfo=UTC)),
    (-1, datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    (2**62, datetime(9999, 12, 30, tzinfo=UTC)), (253_402_300_800_000, datetime(9999, 12, 30, tzinfo=UTC)),
    (-(2**62), datetime(1970, 1, 1, tzinfo=UTC)),
])  # fmt: skip
def test_trap_c03_a_record_whose_writer_set_any_moment_is_read(milliseconds: int, moment: datetime) -> None:
    message = Message(
        topic="t", partition=1, offset=5, key=b"k", value=None, headers=[("a", b"\xff")], timestamp=(1, milliseconds)
    )

    record = record_of(message, 5)

    assert (record.appended_at, record.value, record.headers) == (moment, b"", {"a": "\\xff"})
