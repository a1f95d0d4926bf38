"""`codebank bench order`: it gives a figure where every paid answer is one paid order, and none otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from codebank.errors import CodebankError
from codebank.lab.cage import Cage, caged
from codebank.lab.ordering import OrderFigure, OrderResult, table_of
from codebank.lab.shop import BenchSides
from codebank.lab.spending import Spent, resident_kilobytes, spent_below
from codebank.wire import new_id, utc_now
from tests.conftest import Databases
from tests.system import CODEBANK, own_environment

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux_only
def test_a_short_run_tells_what_an_order_costs_by_role(tmp_path: Path) -> None:
    words = [*CODEBANK, "bench", "order", "--json", "--connections", "2", "--seconds", "1"]

    done = subprocess.run(words, env=own_environment(tmp_path), capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    (figure,) = document["figures"]
    assert (figure["connections"], figure["failed"]) == (2, 0)
    assert figure["orders"] > 0
    assert {"bank", "checkout", "postgres checkout", "all"} <= set(figure["order_cpu_us"])
    assert {"bank", "relay", "projector", "checkout", "statement", "audit", "all"} <= set(figure["resident_kb"])
    # Whether this machine can hold it or not, it is said.
    assert (document["processors_percent"] == 150) == ("is not held" not in done.stderr)


def test_the_table_has_a_column_for_each_number_of_connections() -> None:
    figures = [
        OrderFigure(
            connections=count,
            orders=10,
            failed=0,
            orders_per_second=100 + count,
            p50_microseconds=1_234,
            p99_microseconds=5_678,
            order_microseconds={"bank": 300, "checkout": 400},
            load_microseconds=20,
            resident_kilobytes={"bank": 40_000},
        )
        for count in (4, 32)
    ]

    lines = table_of(OrderResult(figures, "2 cores", 1, is_held=False)).splitlines()

    assert "NOT held" in lines[0]
    assert [line.split() for line in lines if line.startswith(("orders_per", "p50"))] == [
        ["orders_per_second", "104", "132"],
        ["p50_ms", "1.2", "1.2"],
    ]
    assert ["all", "700", "700"] in [line.split() for line in lines]


@pytest.fixture
async def sides(databases: Databases) -> AsyncIterator[BenchSides]:
    made = BenchSides(await databases.connect("checkout"), await databases.connect("statement"))
    yield made
    await made.checkout.close()
    await made.statement.close()


async def pay(checkout: asyncpg.Connection) -> str:
    order_id = new_id()
    await checkout.execute(
        "insert into orders (order_id, idempotency_key, request_hash, status, total_minor, currency, parcelas,"
        " card_masked, card_brand, payment_id, created_at, settled_at)"
        " values ($1, $2, '', 'paid', 1, 'BRL', 1, '•••• 0018', 'visa', $3, $4, $4)",
        order_id,
        f"api:{order_id}",
        new_id(),
        utc_now(),
    )
    return str(order_id)


@pytest.mark.anyio
async def test_what_was_answered_as_paid_is_paid_once_and_nothing_else_is(sides: BenchSides) -> None:
    first, second = await pay(sides.checkout), await pay(sides.checkout)

    await sides.check([first, second], failed=0)
    # An answer that did not come in time: the order may be paid by now.
    await sides.check([first], failed=1)

    for answers in ([first], [first, second, str(new_id())], [first, second, second], [first, first]):
        with pytest.raises(CodebankError, match="answers said paid"):
            await sides.check(answers, failed=0)


def test_a_session_that_ended_is_counted_once() -> None:
    before = Spent({1: ("postgres", 100), 2: ("postgres bank", 40), 3: ("bank", 7)})
    # The server's own 20, and the whole life of the session that ended.
    after = Spent({1: ("postgres", 100 + 20 + 60), 3: ("bank", 17)})

    assert after.since(before) == {"postgres": 40, "bank": 10}


@linux_only
def test_what_a_process_spends_and_holds_is_read_while_it_runs() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = spent_below(busy.pid)
        while not (spent := spent_below(busy.pid).since(before))["up"]:
            time.sleep(0.01)
        held = resident_kilobytes(busy.pid)
    finally:
        busy.kill()
        busy.wait()

    assert set(before.processes) == {busy.pid}
    assert set(spent) == set(held) == {"up"}
    assert held["up"] > 0
    assert not spent_below(busy.pid).processes


def test_without_a_group_a_command_runs_as_it_is() -> None:
    assert Cage(None).command(["a", "b"]) == ["a", "b"]


@linux_only
def test_a_process_in_a_cage_is_held_by_it_and_the_cage_is_gone_afterwards() -> None:
    with caged(150) as cage:
        if cage.folder is None:
            pytest.skip("no control group can be made on this machine")
        shown = subprocess.run(cage.command(["cat", "/proc/self/cgroup"]), capture_output=True, text=True, check=True)
        quota = [path.read_text().split()[0] for path in cage.folder.glob("cpu.*") if path.name in QUOTAS]

    assert cage.folder.name in shown.stdout
    assert quota == ["150000"]
    assert not cage.folder.exists()


QUOTAS = {"cpu.cfs_quota_us", "cpu.max"}
