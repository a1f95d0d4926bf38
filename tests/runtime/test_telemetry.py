"""Metrics and health of a process: each role shows its own, with few labels; alive and ready are two things."""

from __future__ import annotations

import asyncio
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from codebank.roles import METRICS, ROLES, telemetry_of
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.watch import telemetry as module
from codebank.runtime.watch.health import Health, ask_health
from codebank.runtime.watch.metrics import Metric
from codebank.runtime.watch.telemetry import HealthServer, Telemetry, _answer
from codebank.settings import ROLE_NAMES, Settings
from tests.checkout.shop import open_shop
from tests.system import free_port

SOURCE = Path(module.__file__).parents[2]


def shown(telemetry: Telemetry) -> dict[str, float]:
    """Read what a scrape gives: series → value."""
    _, text, _ = _answer(telemetry, "/metrics")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def names(telemetry: Telemetry) -> set[str]:
    """Name the families that a scrape gives."""
    _, text, _ = _answer(telemetry, "/metrics")
    return set(re.findall(r"^# TYPE (\S+)", text.decode(), re.MULTILINE))


def test_the_roles_of_the_metrics_are_the_roles() -> None:
    assert {role for owners in METRICS.values() for role in owners} == set(ROLE_NAMES)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_a_role_shows_its_own_metrics_and_its_process_and_no_others(role: str) -> None:
    ours = {metric.name for metric, owners in METRICS.items() if role in owners}

    found = names(telemetry_of(ROLES[role]))

    assert {name for name in found if name.startswith("codebank_")} == ours
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= found


def test_a_role_counts_nothing_that_the_table_of_roles_does_not_give_it() -> None:
    telemetry = telemetry_of(ROLES["checkout"])

    with pytest.raises(KeyError):
        telemetry.gauge("codebank_relay_leading")


def test_a_rate_over_what_never_happened_is_nought() -> None:
    series = shown(telemetry_of(ROLES["bank"]))

    assert series["codebank_payments_total[('code', ''), ('outcome', 'approved')]"] == 0
    assert series["codebank_payments_total[('code', 'limit_exceeded'), ('outcome', 'declined')]"] == 0


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_and_each_metric_is_used(metric: Metric) -> None:
    assert re.fullmatch(r"codebank_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is Counter)
    assert not re.search(r"_(milliseconds|ms|minutes|kilobytes|count|sum|bucket)(_|$)", metric.name)
    assert (metric.kind is Histogram) == bool(metric.buckets)
    assert list(metric.buckets) == sorted(metric.buckets)
    assert any(f'"{metric.name}"' in path.read_text() for path in SOURCE.rglob("*.py")), "nothing counts it"


def test_an_event_loop_that_stands_still_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = telemetry_of(ROLES["bank"])
    assert _answer(telemetry, "/health/live")[0] == 200  # it has not begun
    telemetry.beat()
    assert _answer(telemetry, "/health/live")[0] == 200

    beat = time.monotonic()
    monkeypatch.setattr("codebank.runtime.watch.telemetry.time.monotonic", lambda: beat + 60)

    assert _answer(telemetry, "/health/live")[0] == 503
    assert _answer(telemetry, "/health/ready")[0] == 503


def test_a_role_is_ready_while_it_serves_and_nothing_hinders_it_and_never_again_once_it_stops() -> None:
    ready = Telemetry(()).ready
    said: list[bool] = []
    changes: list[Callable[[], None]] = [
        lambda: ready.note("reading", does=True),
        ready.set,
        lambda: ready.note("reading", does=False),
        lambda: ready.note("writing", does=False),
        lambda: ready.note("reading", does=True),
        lambda: ready.note("writing", does=True),
        lambda: ready.note("writing", does=False),
        ready.clear,
        lambda: ready.note("writing", does=True),
    ]
    for change in changes:
        change()
        said.append(ready.is_set())

    assert said == [False, True, False, False, False, True, False, False, False]


@pytest.mark.anyio
async def test_alive_and_ready_are_two_things_and_absent_a_third() -> None:
    telemetry, port = telemetry_of(ROLES["relay"]), free_port()
    assert await ask_health("127.0.0.1", port) is Health.ABSENT
    server = HealthServer(telemetry, "127.0.0.1", port)
    server.start()
    try:
        assert await ask_health("127.0.0.1", port) is Health.NOT_WELL
        assert await ask_health("127.0.0.1", port, live=True) is Health.WELL
        telemetry.ready.set()
        assert await ask_health("127.0.0.1", port) is Health.WELL
    finally:
        server.stop()


def test_health_answers_while_the_event_loop_is_busy() -> None:
    telemetry, port, over = telemetry_of(ROLES["bank"]), free_port(), threading.Event()
    server = HealthServer(telemetry, "127.0.0.1", port)
    server.start()

    async def busy() -> None:
        over.wait(20)  # nothing else turns in this loop

    thread = threading.Thread(target=lambda: asyncio.run(busy()))
    thread.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"codebank_batch_size" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=10)
    finally:
        over.set()
        thread.join()
        server.stop()


@pytest.mark.anyio
async def test_a_pool_shows_what_is_used_and_times_what_is_waited_for(settings: Settings) -> None:
    telemetry = telemetry_of(ROLES["bank"])
    pool = await open_pool(settings.database_url("bank"), max_size=2, meter=PoolMeter(telemetry, "bank"))
    used = "codebank_pool_connections[('database', 'bank'), ('state', 'used')]"
    idle = "codebank_pool_connections[('database', 'bank'), ('state', 'idle')]"

    async with pool.acquire():
        busy = shown(telemetry)
    await pool.fetchval("select 1")
    calm = shown(telemetry)
    await pool.close()

    assert (busy[used], busy[idle]) == (1, 0)
    assert (calm[used], calm[idle]) == (0, 1)
    assert calm["codebank_pool_wait_seconds_count[('database', 'bank')]"] == 2


@pytest.mark.anyio
async def test_odd_paths_and_methods_make_no_new_series(settings: Settings) -> None:
    telemetry = telemetry_of(ROLES["checkout"])
    async with open_shop(settings, telemetry) as browser:
        client = browser()
        await client.get("/")
        await client.get("/nowhere")
        await client.request("BREW", "/")
        before = {name for name in shown(telemetry) if "http" in name}

        for number in range(20):
            await client.get(f"/nowhere/{number}?x={number}")
            await client.request(f"BREW{number}", "/")
            await client.get(f"/products/odd-{number}")
        after = {name for name in shown(telemetry) if "http" in name}

    assert {name for name in after - before if "/products" not in name} == set()
    assert not any("odd" in name or "BREW" in name or "/nowhere" in name for name in after)
