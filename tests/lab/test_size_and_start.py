"""A filled bank is filled by the bank's own means, so that the proof holds; a start ends when every role can be used."""

from __future__ import annotations

import json

import pytest

from codebank.cli.bench import _durable_server
from codebank.lab import size, starting


@pytest.mark.timeout(180)
def test_a_filled_bank_has_the_payments_that_were_asked_for_and_the_proof_holds() -> None:
    told: list[str] = []

    result = size.bench_size(_durable_server, 250, 30, 1, 1, told.append)

    document = json.loads(json.dumps(result.document()))
    assert [(one["name"], one["callers"]) for one in document["contenders"]] == [
        ("empty", 32), ("filled", 32), ("empty", 128), ("filled", 128),
    ]  # fmt: skip
    assert document["ratios"].keys() == {"filled_to_empty_32", "filled_to_empty_128"}
    # Written a hundred at a time: no fewer than were asked for.
    assert any(line.startswith("300 of 250 payments") for line in told)
    assert "filled_to_empty_32" in size.table_of(result)


@pytest.mark.timeout(180)
def test_a_system_is_started_stopped_and_started_again_and_each_is_timed() -> None:
    result = starting.bench_start(1, lambda _text: None)

    document = json.loads(json.dumps(result.document()))
    assert document["fresh_ms"] > 0
    assert document["again_ms"] > 0
    assert len(document["rounds_ms"]["stop"]) == 2
    assert {"bank", "relay", "projector", "checkout", "statement", "audit"} <= document["resident_kb"].keys()
    assert "resident" in starting.table_of(result)
