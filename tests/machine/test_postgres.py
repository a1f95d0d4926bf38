"""The embedded PostgreSQL keeps its rows and comes back, whatever is done to its processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from codebank.errors import CodebankError
from codebank.folders import socket_folder
from codebank.machine.orphans import server_processes
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.unprivileged import as_server_user, server_uid
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.process import background


@pytest.fixture(scope="module")
def one_server() -> Iterator[EmbeddedPostgres]:
    made = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    made.chmod(0o711)
    server = EmbeddedPostgres(made / "postgres")
    server.start()
    query(server, "create table kept (number int primary key)")
    yield server
    server.stop()
    shutil.rmtree(made)


@pytest.fixture
def server(one_server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Give a running server, whatever the test before did to it."""
    one_server.start()
    query(one_server, "truncate kept")
    return one_server


async def ask(server: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(server.dsn("postgres", "postgres"))
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def query(server: EmbeddedPostgres, sql: str) -> object:
    return asyncio.run(ask(server, sql))


def wait_until(condition: Callable[[], bool], seconds: float = 8) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(server: EmbeddedPostgres) -> int:
    assert server.pid is not None
    return server.pid


def is_running(server: EmbeddedPostgres) -> bool:
    return server.pid is not None


def mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


def test_a_server_is_durable_reachable_by_its_socket_only_and_not_root(server: EmbeddedPostgres) -> None:
    settings = {
        name: query(server, f"show {name}")
        for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "TimeZone", "jit")
    }

    assert settings == {
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        "listen_addresses": "",
        "TimeZone": "UTC",
        "jit": "off",
    }
    assert query(server, "show data_checksums") == "on"
    sockets = socket_folder(server.folder)
    assert mode(sockets) == 0o700
    assert sockets.stat().st_uid == server.data.stat().st_uid == server_uid() != 0


def test_rows_outlive_stop_and_start(server: EmbeddedPostgres) -> None:
    query(server, "insert into kept values (1)")
    before = server.pid

    server.stop()
    assert server_processes(server.data) == []
    server.stop()

    server.start()
    assert server.pid not in (None, before)
    assert query(server, "select number from kept") == 1


def test_a_second_start_of_a_running_server_changes_nothing(server: EmbeddedPostgres) -> None:
    before = server.pid

    server.start()

    assert server.pid == before


def test_rows_outlive_kill_9_of_every_process(server: EmbeddedPostgres) -> None:
    query(server, "insert into kept select generate_series(1, 1000)")

    for pid in server_processes(server.data):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(server))

    server.restart()
    assert query(server, "select count(*) from kept") == 1000


@pytest.mark.anyio
async def test_a_backend_that_outlived_its_server_is_ended_before_a_new_server_writes(server: EmbeddedPostgres) -> None:
    busy = await asyncpg.connect(server.dsn("postgres", "postgres"))
    backend = busy.get_server_pid()
    # Never looks up from its work, so that it does not notice that the server is gone.
    endless = asyncio.create_task(busy.execute("do $$ begin loop end loop; end $$"))
    while await ask(server, f"select state from pg_stat_activity where pid = {backend}") != "active":
        await asyncio.sleep(0.01)
    os.kill(alive(server), signal.SIGKILL)
    while is_running(server):
        await asyncio.sleep(0.01)
    assert backend in server_processes(server.data)
    server.start()

    assert backend not in server_processes(server.data)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await endless
    assert await ask(server, "select 1") == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, and setpriv to take a right from it"
)
def test_root_without_the_right_to_look_into_processes_finds_its_servers(server: EmbeddedPostgres) -> None:
    code = (
        "import sys; from pathlib import Path; from codebank.machine.orphans import server_processes;"
        "print(server_processes(Path(sys.argv[1])))"
    )
    # As root is in a container.
    command = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", sys.executable, "-c", code,
               str(server.data)]  # fmt: skip

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert alive(server) in json.loads(done.stdout)


def test_an_orphan_on_the_folder_is_stopped_even_when_found_by_another_path(server: EmbeddedPostgres) -> None:
    query(server, "insert into kept values (3)")
    other_name = server.folder.parent / "other-name"
    other_name.symlink_to(server.folder)

    with EmbeddedPostgres(other_name) as second:
        assert alive(second) in server_processes(server.data)
        assert not is_running(server)
        assert query(second, "select number from kept") == 3


def test_a_server_stops_when_the_process_that_started_it_is_killed(server: EmbeddedPostgres) -> None:
    query(server, "insert into kept values (4)")
    server.stop()
    program = (
        "import pathlib, sys, time\n"
        "from codebank.machine.postgres import EmbeddedPostgres\n"
        "EmbeddedPostgres(pathlib.Path(sys.argv[1])).start()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(server.folder)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        assert server_processes(server.data) != []

        owner.kill()

    wait_until(lambda: server_processes(server.data) == [])
    server.start()
    assert query(server, "select number from kept") == 4


def test_a_pid_file_whose_number_belongs_to_another_program_now_is_survived(server: EmbeddedPostgres) -> None:
    pid_file = server.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    for pid in server_processes(server.data):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(server) and server_processes(server.data) == [])
    stranger = subprocess.Popen(["sleep", "60"], **as_server_user())
    pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")

    server.start()

    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()
    assert query(server, "select 1") == 1


@pytest.mark.anyio
async def test_a_server_that_dies_is_started_again_while_it_is_watched(server: EmbeddedPostgres) -> None:
    await ask(server, "insert into kept values (5)")
    said: list[str] = []
    watching = asyncio.create_task(server.keep_running(said.append))
    before = server.pid
    assert before is not None

    os.kill(before, signal.SIGKILL)

    async with asyncio.timeout(8):
        while len(said) < 2:
            await asyncio.sleep(0.02)
    watching.cancel()
    assert said == ["postgres died; starting it again", "postgres is ready again"]
    assert await ask(server, "select number from kept") == 5


@pytest.mark.anyio
async def test_trap_c05_a_server_that_lets_nobody_in_is_killed_and_started_again(server: EmbeddedPostgres) -> None:
    await ask(server, "insert into kept values (6)")
    said: list[str] = []
    before = alive(server)

    async with background(server.keep_running(said.append), server.end_if_it_hangs(said.append)):
        os.kill(before, signal.SIGSTOP)

        async with asyncio.timeout(40):
            while len(said) < 3:
                await asyncio.sleep(0.02)

    assert said == ["postgres lets nobody in; killed", "postgres died; starting it again", "postgres is ready again"]
    assert await ask(server, "select number from kept") == 6


def test_trap_c05_a_server_that_hangs_does_not_hold_up_its_stop(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codebank.machine.postgres._STOP_TIMEOUT_SECONDS", 0.2)
    pid = alive(server)
    os.kill(pid, signal.SIGSTOP)

    server.stop()

    assert pid not in server_processes(server.data)


@pytest.mark.anyio
async def test_each_database_has_an_owner_and_a_reader_who_writes_nothing(server: EmbeddedPostgres) -> None:
    superuser = server.dsn("postgres", "postgres")
    await asyncio.gather(*(prepare_databases(superuser, ["bank", "log"], "audit") for _ in range(3)))
    await prepare_databases(superuser, ["bank", "log"], "audit")

    owner = await asyncpg.connect(server.dsn("bank", "bank"))
    await owner.execute("create table money (amount_minor bigint)")
    await owner.execute("insert into money values (100)")
    reader = await asyncpg.connect(server.dsn("bank", "audit"))
    assert await reader.fetchval("select amount_minor from money") == 100
    for forbidden in (
        "insert into money values (1)",
        "update money set amount_minor = 0",
        "delete from money",
        "truncate money",
        "create table mine ()",
        "create temporary table mine ()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(forbidden)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(server.dsn("bank", "log"))
    assert await owner.fetchval("select sum(amount_minor) from money") == 100
    await owner.close()
    await reader.close()


def test_a_first_start_that_was_cut_short_is_done_again_and_a_path_of_any_length_serves(folder: Path) -> None:
    deep = folder / ("long-" * 20) / "postgres"
    (deep / "data.new" / "base").mkdir(parents=True)
    victim = folder / "victim"
    victim.mkdir()
    sockets = socket_folder(deep)
    assert sockets.parent == Path(tempfile.gettempdir())
    # Somebody was there first, hoping that we give away what the link leads to.
    sockets.symlink_to(victim)

    server = EmbeddedPostgres(deep, durable=False)
    try:
        with server:
            assert query(server, "select 1") == 1
            assert not sockets.is_symlink()
            assert mode(sockets) == 0o700
        assert victim.stat().st_uid == os.geteuid()
        assert list(victim.iterdir()) == []
    finally:
        shutil.rmtree(sockets)


def test_part_of_a_data_folder_is_refused_and_left_alone(folder: Path) -> None:
    data = folder / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "precious").touch()
    os.chown(data, server_uid(), -1)

    with pytest.raises(CodebankError, match="is not a PostgreSQL data folder, or only a part of one\nhint: remove it"):
        EmbeddedPostgres(folder / "postgres").start()

    assert (data / "precious").exists()


def test_a_server_that_does_not_start_says_why(server: EmbeddedPostgres) -> None:
    server.stop()
    written = server.data / "postgresql.auto.conf"
    before = written.read_bytes()
    written.write_text("work_mem = 'nonsense'\n")

    with pytest.raises(CodebankError) as raised:
        server.start()

    written.write_bytes(before)
    assert 'invalid value for parameter "work_mem": "nonsense"' in raised.value.message
    assert raised.value.hint == f"its whole log is {server.folder / 'postgres.log'}"
    assert server.pid is None
