"""Several processes of one role: one port that no stranger shares, one health, one sum of what they count."""

from __future__ import annotations

import os
import socket
import sys

import pytest
from prometheus_client import generate_latest

from codebank.errors import CodebankError
from codebank.roles import ROLES, telemetry_of
from codebank.runtime.grpc.channels import channels_for
from codebank.runtime.processes import held_port, process_count
from codebank.runtime.watch.adding import add_up
from codebank.runtime.watch.metrics import PROCESS_METRICS

linux = pytest.mark.skipif(sys.platform != "linux", reason="processes share a port on Linux")
LOOPBACK = "127.0.0.1"
INFO, EXPIRY = "codebank_info", "codebank_certificate_expiry_timestamp_seconds"


def listening(port: int, *, shares: bool) -> socket.socket:
    """Listen as gRPC's servers do."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
    try:
        server.bind((LOOPBACK, port))
        server.listen()
    except OSError:
        server.close()
        raise
    return server


@linux
def test_a_held_port_lets_in_who_shares_it_and_nobody_else() -> None:
    with held_port(LOOPBACK, 0, "CODEBANK_BANK_PORT") as port:
        with pytest.raises(OSError, match="in use"):
            listening(port, shares=False)
        with listening(port, shares=True), listening(port, shares=True):
            # Whoever holds it is given no connection.
            socket.create_connection((LOOPBACK, port), 5).close()
            with pytest.raises(CodebankError, match=f"port {port} cannot be opened") as refused:
                held_port(LOOPBACK, port, "CODEBANK_BANK_PORT").__enter__()
            assert "CODEBANK_BANK_PORT" in refused.value.hint
        with pytest.raises(CodebankError):
            held_port(LOOPBACK, port, "CODEBANK_BANK_PORT").__enter__()


@linux
@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_somebody_has_is_not_held(shares: bool) -> None:
    with (
        listening(0, shares=shares) as stranger,
        pytest.raises(CodebankError, match="already in use"),
        held_port(LOOPBACK, stranger.getsockname()[1], "CODEBANK_BANK_PORT"),
    ):
        pass


@linux
@pytest.mark.parametrize(("cores", "count"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4)])
def test_there_is_a_process_for_every_two_cores_unless_it_is_said(
    cores: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))

    assert process_count(0) == count
    assert process_count(5) == 5
    assert channels_for(count) == (1 if count == 1 else 4 * count)


def shown(payments: int, waiting: int, expiry: int, seconds: list[float]) -> str:
    telemetry = telemetry_of(ROLES["bank"])
    telemetry.counter("codebank_payments_total", "approved", "").inc(payments)
    telemetry.gauge("codebank_queue_items").set(waiting)
    telemetry.gauge(INFO, "1", "bank").set(1)
    telemetry.gauge(EXPIRY, "roles").set(expiry)
    for one in seconds:
        telemetry.histogram("codebank_batch_seconds").observe(one)
    return generate_latest(telemetry.registry).decode()


def read(text: bytes) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in lines}


def test_counters_histograms_and_what_waits_are_added_up_and_what_says_something_of_all_is_not() -> None:
    addings = {metric.name: metric.adding for metric in (*ROLES["bank"].metrics, *PROCESS_METRICS)}

    whole = read(add_up([shown(3, 2, 500, [0.003]), shown(4, 5, 400, [0.003, 7])], addings))

    assert whole['codebank_payments_total{code="",outcome="approved"}'] == 7
    assert whole["codebank_queue_items"] == 7
    assert whole['codebank_batch_seconds_bucket{le="0.005"}'] == 2
    assert whole['codebank_batch_seconds_bucket{le="+Inf"}'] == 3
    assert whole["codebank_batch_seconds_count"] == 3
    assert whole["codebank_batch_seconds_sum"] == pytest.approx(7.006)
    assert whole[f'{INFO}{{role="bank",version="1"}}'] == 1
    assert whole[f'{EXPIRY}{{certificate="roles"}}'] == 400
    mine = read(shown(0, 0, 0, []).encode())
    assert whole["process_start_time_seconds"] == mine["process_start_time_seconds"]
    assert whole["process_resident_memory_bytes"] > 1.5 * mine["process_resident_memory_bytes"]


def test_the_sum_of_one_is_as_it_was() -> None:
    text = shown(3, 2, 500, [0.003, 7])

    assert read(add_up([text], {})) == read(text.encode())
    assert add_up([text], {}).count(b"# TYPE") == text.count("# TYPE")
