"""A bench gives figures only for a run whose payments were all found, each once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from codebank.cli.bench import _durable_server
from codebank.errors import CodebankError
from codebank.lab.bench import AUTHORIZE, HOT, MIXED, Measured, figure_of, require_each_once, run_scenario, table_of
from codebank.lab.load import Turn
from codebank.lab.processor import children_of, family_microseconds, own_microseconds, resident_bytes
from codebank.settings import Settings
from tests.conftest import Databases

WANTED = {"name", "callers", "requests_per_second", "p50_ms", "p99_ms", "server_cpu_us", "postgres_cpu_us"}


@pytest.mark.timeout(120)
def test_a_short_run_has_everyfigure_of_and_says_what_it_was_measured_on() -> None:
    told: list[str] = []

    result = run_scenario(HOT, _durable_server, 1, 1, told.append)

    document = json.loads(json.dumps(result.document()))
    assert [one["name"] for one in document["contenders"]] == ["hot", "spread"]
    assert all(one.keys() >= WANTED for one in document["contenders"])
    assert all(one["server_cpu_us"] > 0 and one["postgres_cpu_us"] > 0 for one in document["contenders"])
    assert document["ratios"].keys() == {"hot_to_spread"}
    assert document["payments"] > sum(one["requests_per_second"] for one in document["contenders"])
    assert "hot_to_spread" in table_of(result)
    assert any("round 1/1" in line for line in told)


def test_the_contenders_are_named_once_and_every_ratio_is_of_two_of_them() -> None:
    for scenario in (AUTHORIZE, HOT, MIXED):
        names = [(one.name, one.callers) for one in scenario.contenders]

        assert len(set(names)) == len(names)
        assert {side for pair in scenario.ratios.values() for side in pair} <= set(names)


def testfigure_ofs_are_medians_of_the_rounds() -> None:
    rounds = [
        Measured(Turn(1000, 1_000_000, [1000] * 98 + [9000, 9000], 50_000), 200_000, 60_000),
        Measured(Turn(2000, 1_000_000, [2000] * 100, 100_000), 500_000, 140_000),
        Measured(Turn(4000, 1_000_000, [3000] * 100, 400_000), 1_200_000, 280_000),
    ]

    figure = figure_of(HOT.contenders[0], rounds)

    assert (figure.requests_per_second, figure.requests_per_second_min, figure.requests_per_second_max) == (
        2000, 1000, 4000,
    )  # fmt: skip
    assert (figure.p50_ms, figure.p99_ms) == (2, 3)
    assert (figure.server_cpu_us, figure.postgres_cpu_us, figure.load_cpu_us) == (250, 70, 50)


@pytest.mark.anyio
async def test_a_payment_that_is_not_there_leaves_nofigure_ofs(databases: Databases, settings: Settings) -> None:
    await require_each_once(settings, 0)

    with pytest.raises(CodebankError, match="1 payments were answered, 0 are there"):
        await require_each_once(settings, 1)


def test_processor_time_and_memory_are_a_process_s_own_and_its_children_s() -> None:
    busy = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        own, family = own_microseconds(child.pid), family_microseconds(child.pid)
        me = os.getpid()
        with_child = family_microseconds(me) - own_microseconds(me)

        assert child.pid in children_of(me)
        assert own >= 80_000
        assert family == own
        assert with_child >= 80_000
        assert resident_bytes(child.pid) > 1_000_000
        child.communicate(b"\n")
