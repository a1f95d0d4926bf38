"""Variables, and files in a home, that are meant for other programs: none of them steers ours."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.servers.java import find_java, server_environment
from codebank.machine.servers.ready import url_answers
from codebank.machine.unprivileged import as_server_user
from codebank.runtime.grpc.channels import open_channels
from codebank.runtime.grpc.tls import open_blocking_channel, open_channel
from codebank.runtime.postgres.pool import connect, connected, open_pool
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.watch.tracer import open_tracer
from codebank.runtime.web.peer import Peer
from tests.conftest import BankServer
from tests.system import free_port

pytestmark = pytest.mark.anyio

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Name a proxy in every variable, and give who came to it."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    guest, address = door.accept()
                    came.append(str(address))
                    guest.close()

        thread = threading.Thread(target=take)
        thread.start()
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{door.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield came
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def site() -> Iterator[str]:
    """Give the address of a server that answers everything with nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("count", [1, 4])
async def test_trap_c15_calls_to_the_bank_go_through_no_proxy(
    bank_server: BankServer, proxy: list[str], count: int
) -> None:
    channel = open_channels(bank_server.address, None, count)
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(), timeout=5)
    await channel.close(None)

    assert (answer.status, proxy) == (health_pb2.HealthCheckResponse.SERVING, [])


async def test_trap_c15_a_commands_call_to_the_bank_goes_through_no_proxy(
    bank_server: BankServer, proxy: list[str]
) -> None:
    def call() -> Any:
        with open_blocking_channel(bank_server.address, None) as channel:
            return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert ((await asyncio.to_thread(call)).status, proxy) == (health_pb2.HealthCheckResponse.SERVING, [])


def test_channels_are_opened_in_one_place() -> None:
    source = Path(open_channel.__code__.co_filename).parents[2]
    found = [
        str(path.relative_to(source)) for path in source.rglob("*.py") if "secure_channel(" in path.read_text("utf-8")
    ]

    assert found == ["runtime/grpc/tls.py"]


async def test_trap_c15_connect_and_search_are_asked_through_no_proxy(site: str, proxy: list[str]) -> None:
    assert await Peer(site).ask("GET", "/connectors") is None
    assert await url_answers(site)
    assert proxy == []


async def test_trap_c15_spans_go_to_the_collector_through_no_proxy(
    site: str, proxy: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    tracer = open_tracer("bank", site, "1", "tests")
    tracer.begin_root("one").end()
    await asyncio.to_thread(tracer.close)

    assert proxy == []


PG = {
    "PGSSLMODE": "verify-full",
    "PGTARGETSESSIONATTRS": "standby",
    "PGPORT": "1",
    "PGHOST": "db.example",
    "PGUSER": "somebody",
    "PGDATABASE": "theirs",
    "PGPASSWORD": "theirs",
    "PGSSLNEGOTIATION": "direct",
    "PGGSSLIB": "none",
    "PGSERVICE": "theirs",
    "PGOPTIONS": "-c nonsense=1",
    "PGTZ": "Mars/Olympus",
}


@pytest.mark.parametrize("name", PG)
async def test_trap_c15_a_variable_for_another_postgresql_never_reaches_ours(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dsn = postgres.dsn("postgres", "postgres")

    async def ask() -> list[Any]:
        monkeypatch.setenv(name, PG[name])
        one = await connect(dsn)
        answers = [await one.fetchval("show timezone")]
        await one.close()
        monkeypatch.setenv(name, PG[name])
        async with connected(dsn, role="test") as other:
            answers.append(await other.fetchval("show timezone"))
        monkeypatch.setenv(name, PG[name])
        pool = await open_pool(dsn)
        answers.append(await pool.fetchval("show timezone"))
        await pool.close()
        monkeypatch.setenv(name, PG[name])
        await prepare_databases(dsn, [], "audit")
        return answers

    assert await ask() == ["UTC", "UTC", "UTC"]


@pytest.fixture
def crowded_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a home with a password and certificates for somebody's server."""
    (tmp_path / ".pgpass").write_text("*:*:*:*:theirs\n")
    (tmp_path / ".pgpass").chmod(0o600)
    (tmp_path / ".postgresql").mkdir()
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (tmp_path / ".postgresql" / name).write_text("theirs")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("mode", ["", "?sslmode=require"])
async def test_trap_c15_certificates_in_a_home_never_reach_our_server(crowded_home: Path, mode: str) -> None:
    # Nobody listens there: it is as far as one comes whose own certificates are in order.
    with pytest.raises(ConnectionRefusedError):
        await connect(f"postgresql://bank@127.0.0.1:{free_port()}/bank{mode}")


async def test_trap_c15_a_password_in_a_home_is_never_told_to_our_server(crowded_home: Path) -> None:
    heard = asyncio.Queue[bytes]()

    async def ask_for_a_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")  # no TLS here
        await reader.read(1000)
        writer.write(b"R\0\0\0\x08\0\0\0\x03")
        heard.put_nowait(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(ask_for_a_password, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with contextlib.suppress(Exception):
            await connect(f"postgresql://bank@127.0.0.1:{port}/bank")

        assert b"theirs" not in await heard.get()


def test_trap_c15_the_embedded_servers_programs_see_nothing_meant_for_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**PG, "LC_ALL": "xx_XX", "LANG": "xx_XX", "TZ": "Mars", "PGDATA": "/theirs"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/kept")

    assert as_server_user()["env"].keys() - {"LD_PRELOAD"} == {"PATH", "LC_ALL", "TZ", "LD_LIBRARY_PATH"}
    monkeypatch.delenv("LD_LIBRARY_PATH")
    server = EmbeddedPostgres(folder / "postgres", durable=False)
    try:
        server.start()
        assert asyncio.run(_shown(server, "port")) == "5432"
    finally:
        server.stop()


async def _shown(server: EmbeddedPostgres, name: str) -> object:
    async with connected(server.dsn("postgres", "postgres"), role="test") as connection:
        return await connection.fetchval(f"show {name}")


def test_trap_c15_options_for_all_java_reach_no_server_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"):
        monkeypatch.setenv(name, "-Xnonsense")

    assert not {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"} & server_environment().keys()
    if shutil.which("javac"):
        assert find_java(8).is_dir()
