"""Ports of ours on every kind of address: IPv4, IPv6, all of a machine."""

from __future__ import annotations

import asyncio
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette

from codebank.address import place, reached
from codebank.bank.app import open_bank
from codebank.errors import CodebankError
from codebank.machine.ports import PortTaken, check_ports
from codebank.roles import METRICS
from codebank.runtime.listener import open_listener
from codebank.runtime.processes import held_port
from codebank.runtime.watch.health import Health, ask_health
from codebank.runtime.watch.telemetry import HealthServer, Telemetry
from codebank.runtime.web.serve import serve_app
from codebank.settings import Settings
from tests.system import free_port

pytestmark = pytest.mark.anyio


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
#: Where a port is opened, and where it must answer.
HOSTS = [
    ("127.0.0.1", ("127.0.0.1",)),
    ("0.0.0.0", ("127.0.0.1",)),
    ("localhost", ("127.0.0.1",)),
    pytest.param("::1", ("::1",), marks=ipv6),
    pytest.param("::", ("::1", "127.0.0.1"), marks=ipv6),
]


@pytest.mark.parametrize(("host", "answering"), HOSTS)
async def test_pages_are_served_on_every_address(host: str, answering: tuple[str, ...]) -> None:
    port, stop, ready = free_port(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve_app(Starlette(), host, port, stop, grace_seconds=1, keep_alive_seconds=5, on_ready=ready.set)
        )
        await ready.wait()
        for one in (*answering, reached(host)):
            assert await ask_health(one, port) is Health.NOT_WELL  # 404: it answers
        stop.set()


@pytest.mark.parametrize(("host", "answering"), HOSTS)
async def test_health_is_told_on_every_address(host: str, answering: tuple[str, ...]) -> None:
    telemetry, port = Telemetry(()), free_port()
    server = HealthServer(telemetry, host, port)
    server.start()
    try:
        assert [await ask_health(one, port, live=True) for one in answering] == [Health.WELL] * len(answering)
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(("host", "answering"), HOSTS)
async def test_the_bank_answers_on_every_address(settings: Settings, host: str, answering: tuple[str, ...]) -> None:
    async with open_bank(settings, Telemetry(METRICS), place(host, 0)) as port:
        for one in answering:
            async with grpc.aio.insecure_channel(place(one, port)) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(("host", "answering"), HOSTS)
def test_a_taken_port_is_seen_on_every_address(host: str, answering: tuple[str, ...]) -> None:
    for one in answering:
        with open_listener(one, 0) as holder:
            port = holder.getsockname()[1]
            with pytest.raises(PortTaken, match=f"port {port}"):
                check_ports([(port, "CODEBANK_BANK_PORT", "x")], host)
            with pytest.raises(CodebankError, match="cannot be opened"):
                open_listener(host, port)
            with pytest.raises(CodebankError, match="CODEBANK_BANK_PORT"), held_port(host, port, "CODEBANK_BANK_PORT"):
                pass


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machines_is_refused_with_a_sentence(host: str) -> None:
    with pytest.raises(PortTaken, match=f"cannot be opened on {host}: [a-z]"):
        check_ports([(0, "CODEBANK_BANK_PORT", "x"), (free_port(), "CODEBANK_AUDIT_PORT", "y")], host)
    with pytest.raises(CodebankError, match=r"cannot be opened: [a-z]"):
        open_listener(host, free_port())


async def test_an_idle_connection_is_kept_as_long_as_it_is_said() -> None:
    port, stop, ready = free_port(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve_app(Starlette(), "127.0.0.1", port, stop, grace_seconds=1, keep_alive_seconds=1, on_ready=ready.set)
        )
        await ready.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nNot Found")
        answered = time.monotonic()

        assert await reader.read() == b""
        assert 0.9 < time.monotonic() - answered < 4.5
        writer.close()
        stop.set()
