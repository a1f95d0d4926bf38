"""Machines as they are: folders of any name, users without one, little shared memory, nothing that may be written."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from codebank.errors import CodebankError
from codebank.machine.binaries import runnable_tree
from codebank.machine.postgres import EmbeddedPostgres
from codebank.machine.servers.app import Servers
from codebank.runtime.postgres.pool import connected
from codebank.settings import Settings
from tests.system import CODEBANK, own_environment

as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux takes the place of others"
)
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
#: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root in everywhere.
_OVERRIDES: Final = (1, 2)


async def ask(dsn: str, sql: str) -> object:
    async with connected(dsn, role="test") as connection:
        return await connection.fetchval(sql)


@pytest.fixture(scope="module")
def made_data() -> Iterator[Path]:
    """Give the folder of a server that was made, and stopped."""
    made = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    made.chmod(0o711)
    server = EmbeddedPostgres(made / "postgres", durable=False)
    server.start()
    server.stop()
    yield made / "postgres"
    shutil.rmtree(made)


@pytest.mark.parametrize(
    "name",
    ["a, b", "a b", 'say "hi"', "it's", "ação", "文", "100%", "a:b;c", "b\\n", "x" * 120, "line\nend", b"latin-\xe9"],
    ids=repr,
)
def test_state_may_lie_in_a_folder_of_any_name(name: str | bytes, made_data: Path, folder: Path) -> None:
    settings = Settings.load({"CODEBANK_STATE": str(folder / os.fsdecode(name))})
    settings.state.mkdir()
    settings.state.chmod(0o711)
    shutil.copytree(made_data, settings.state / "postgres", symlinks=True, ignore=shutil.ignore_patterns("socket"))
    if os.geteuid() == 0:
        owner = (made_data / "data").stat()
        for place in [settings.state / "postgres", *(settings.state / "postgres").rglob("*")]:
            os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)
    server = EmbeddedPostgres(settings.state / "postgres", durable=False)
    try:
        server.start()
        assert asyncio.run(ask(settings.admin_url(), "select 1")) == 1
        assert asyncio.run(ask(server.dsn("postgres", "postgres"), "select 2")) == 2
    finally:
        server.stop()


def test_state_may_lie_behind_a_link(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "real").chmod(0o711)
    (folder / "link").symlink_to(folder / "real")
    settings = Settings.load({"CODEBANK_STATE": str(folder / "link")})
    server = EmbeddedPostgres(settings.state / "postgres", durable=False)
    try:
        server.start()
        assert asyncio.run(ask(settings.admin_url(), "select 1")) == 1
    finally:
        server.stop()


def test_kafka_is_refused_in_a_folder_whose_name_it_would_split(folder: Path) -> None:
    settings = Settings.load({"CODEBANK_STATE": str(folder / "a,b")})

    with pytest.raises(CodebankError, match="a,b") as refused:
        Servers(settings, print).prepare()

    assert "CODEBANK_STATE" in refused.value.hint


def run_python(code: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


#: Becomes a user whom nobody knows once everything is loaded, and starts a server.
_NAMELESS: Final = f"""
import ctypes, os, sys, pathlib
import codebank.machine.postgres
from codebank.machine.binaries import runnable_tree
from codebank.machine.postgres import EmbeddedPostgres
home = pathlib.Path(sys.argv[1])
os.chown(home, 54321, 54321)
os.setgroups([]); os.setgid(54321); os.setuid(54321)
os.environ.pop("HOME", None)
ctypes.CDLL(None).prctl({_PR_SET_DUMPABLE}, 1)
with EmbeddedPostgres(home / "postgres", durable=False, binaries=pathlib.Path(sys.argv[2])) as server:
    print((server.data / "PG_VERSION").stat().st_uid)
"""


@as_root
def test_a_user_without_a_name_runs_a_server_of_its_own(made_data: Path, folder: Path) -> None:
    # Where every user may run them.
    tree, _ = runnable_tree(made_data)

    done = run_python(_NAMELESS, str(folder), str(tree))

    assert (done.returncode, done.stdout, done.stderr) == (0, "54321\n", "")


#: Lets several processes of the server share a large table of hashes.
_PARALLEL: Final = """
import asyncio, sys, pathlib
from codebank.machine.binaries import runnable_tree
from codebank.machine.postgres import EmbeddedPostgres
from codebank.runtime.postgres.pool import connected
async def work(server):
    async with connected(server.dsn("postgres", "postgres"), role="test") as connection:
        for name in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
            await connection.execute(f"set {name} = 0")
        await connection.execute("set enable_mergejoin = off; set enable_nestloop = off; set work_mem = '16MB'")
        await connection.execute("create table a as select number from generate_series(1, 200000) number; analyze a")
        plan = await connection.fetch("explain select count(*) from a join a b using (number)")
        assert any("Parallel Hash" in row[0] for row in plan), plan
        return await connection.fetchval("select count(*) from a join a b using (number)")
with EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False) as server:
    print(asyncio.run(work(server)))
"""


@as_root
def test_a_small_shared_memory_is_enough(folder: Path) -> None:
    small = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh")

    done = run_python(_PARALLEL, str(folder / "postgres"), before=small)

    assert (done.returncode, done.stdout, done.stderr) == (0, "200000\n", "")


def _obey_permissions() -> Callable[[], None]:
    """Make a `preexec_fn` after which root may only what the bits of a file say, as everybody else."""
    prctl = ctypes.CDLL(None).prctl

    def before_exec() -> None:
        for number in _OVERRIDES:
            prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)

    return before_exec


def _refused(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [*CODEBANK, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        preexec_fn=_obey_permissions() if sys.platform == "linux" else None,
    )
    assert done.returncode in (1, 2), done
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("codebank: ")
    return done.stderr


COMMANDS: Final = ["up", "up --fresh", "servers", "proof", "pay", "migrate", "seed", "card list", "dead-letter list"]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_state_folder_without_rights_is_named_with_a_hint(words: str, folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o000)

    said = _refused(words.split(), own_environment(closed / "state"))

    assert str(closed) in said
    assert "hint: set CODEBANK_STATE to a folder that you may write" in said


@pytest.mark.parametrize("words", ["up", "servers"])
@pytest.mark.parametrize("obstacle", ["file", "closed file of an earlier run"])
def test_something_in_the_way_of_the_state_is_named(words: str, obstacle: str, folder: Path) -> None:
    state = folder / "state"
    if obstacle == "file":
        state.write_text("a file")
    else:
        (state / "servers").mkdir(parents=True)
        for place in (state, state / "servers"):
            (place / "up.lock").touch(mode=0o000)

    assert str(state) in _refused([words], own_environment(state))


@pytest.mark.parametrize("words", ["up", "proof"])
def test_a_home_without_rights_is_named_with_a_hint(words: str, folder: Path) -> None:
    (folder / "home").mkdir(mode=0o000)
    environment = own_environment(folder)
    del environment["CODEBANK_STATE"]
    environment |= {"XDG_STATE_HOME": str(folder / "home" / "state"), "HOME": str(folder / "home")}
    if os.geteuid() == 0:
        environment["CODEBANK_STATE"] = "~/state"

    said = _refused([words], environment)

    assert "hint: set CODEBANK_STATE to a folder that you may write" in said


@pytest.mark.parametrize("words", ["secrets", "certs"])
def test_a_folder_that_is_given_and_may_not_be_written_is_named(words: str, folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o500)

    assert str(folder / "closed" / "made") in _refused([words, str(folder / "closed" / "made")], dict(os.environ))
