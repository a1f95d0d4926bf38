"""A filled bank is filled by the bank's own means, so that the proof holds; starts and stops are timed."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from codebank.cli.bench import _durable_server
from codebank.lab import size, starting
from codebank.lab.bench import require_each_once
from codebank.lab.rig import open_rig


@pytest.mark.timeout(120)
def test_a_filled_bank_has_the_payments_that_were_asked_for_and_the_proof_holds() -> None:
    told: list[str] = []
    with (
        open_rig(_durable_server, told.append, accounts=30) as rig,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load,
    ):
        # Written a hundred at a time: no fewer than were asked for.
        assert size._filled(rig, load, 250, told.append) == 300

        asyncio.run(require_each_once(rig.settings, 300))

    assert told[-1].startswith("300 of 250 payments")


@pytest.mark.timeout(180)
def test_a_system_is_started_stopped_and_started_again_and_each_is_timed() -> None:
    result = starting.bench_start(1, lambda _text: None)

    document = json.loads(json.dumps(result.document()))
    assert document["fresh_ms"] > 0
    assert document["again_ms"] > 0
    assert len(document["rounds_ms"]["stop"]) == 2
    assert {"bank", "relay", "projector", "checkout", "statement", "audit"} <= document["resident_kb"].keys()
    assert "resident" in starting.table_of(result)
