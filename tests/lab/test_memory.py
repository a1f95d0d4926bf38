"""`codebank bench memory`: a curve of what every role holds, and what a million orders add to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from codebank.lab.memory import Holding, MemoryResult, table_of
from tests.system import CODEBANK, own_environment


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_short_run_has_a_point_for_each_turn_and_every_role(tmp_path: Path) -> None:
    words = [*CODEBANK, "bench", "memory", "--json", "--orders", "60", "--seconds", "1"]

    done = subprocess.run(words, env=own_environment(tmp_path), capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["orders"] >= 60
    assert document["curve"][-1]["orders"] == document["orders"]
    roles = {"bank", "relay", "projector", "checkout", "statement", "audit"}
    assert all(roles <= held["resident_kb"].keys() for held in document["curve"])
    assert "of 60 orders" in done.stderr


def test_growth_is_what_comes_after_the_caches_have_filled() -> None:
    curve = [
        Holding(number * 100_000, {"bank": 70_000 + min(number, 2) * 5_000, "audit": 90_000 + number * 300})
        for number in range(1, 11)
    ]

    result = MemoryResult(curve, "2 cores")

    assert result.growth() == {"audit": 3_000, "bank": 0}
    assert ["audit", "90300", "90900", "91500", "92100", "93000", "+3000"] in [
        line.split() for line in table_of(result).splitlines()
    ]
