"""`codebank up` on a machine that is set up for everything else, in a terminal that is closed one day."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from codebank.roles import ROLES
from tests.system import CODEBANK, children, own_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")

NAME: Final = 'a, "b" ção'


@contextlib.contextmanager
def counting_proxy() -> Iterator[tuple[str, list[str]]]:
    """Give the address of a proxy that serves nobody, and who came."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as door:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    guest, _ = door.accept()
                    came.append(guest.recv(200).decode(errors="replace"))
                    guest.close()

        thread = threading.Thread(target=take)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}", came
        door.shutdown(socket.SHUT_RDWR)
        thread.join()


def _own_host() -> str:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        return "127.0.0.1"


def hostile_environment(folder: Path, proxy: str) -> dict[str, str]:
    """Make an environment in which every variable is meant for another program, and ours are written carelessly."""
    home = folder / "home"
    (home / ".postgresql").mkdir(parents=True)
    for name in (".postgresql/root.crt", ".postgresql/postgresql.crt", ".pgpass", ".netrc"):
        (home / name).write_text("theirs")
    ours = own_environment(folder / NAME, host=_own_host(), bank_processes=2)
    ours |= {"CODEBANK_MERCHANT_KEY": "of-the-tests\r\n", "CODEBANK_WEB_SECRET": " of the tests \n"}
    return ours | {
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy),
        "HOME": str(home),
        "PGSSLMODE": "verify-full",
        "PGTARGETSESSIONATTRS": "standby",
        "PGPORT": "1",
        "PGDATA": "/theirs",
        "PGOPTIONS": "-c nonsense=1",
        "PYTHONIOENCODING": "latin-1",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "COLUMNS": "20",
    }


def _have_a_terminal() -> None:
    """Belong to the terminal, and hear of its end: whoever runs these tests may have been told not to."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@dataclass
class Terminal:
    """A terminal in which a command runs, until it is closed."""

    environment: dict[str, str]
    screen: int = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)
    said: bytes = b""

    def __post_init__(self) -> None:
        self.screen, inside = pty.openpty()
        self.process = subprocess.Popen(
            [*CODEBANK, "up"],
            env=self.environment,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=_have_a_terminal,
        )
        os.close(inside)

    def read_until(self, words: bytes, seconds: int = 60) -> None:
        """Read until it says these words, or it ends."""
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert time.monotonic() < deadline, self.said.decode(errors="replace")
            if select.select([self.screen], [], [], 0.2)[0]:
                try:
                    self.said += os.read(self.screen, 65_536)
                except OSError:
                    break
        assert words in self.said, self.said.decode(errors="replace")

    def close(self) -> None:
        """Close the window."""
        os.close(self.screen)


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*CODEBANK, *words], env=environment, capture_output=True, timeout=60, check=False)


def code_of(environment: dict[str, str], *words: str, onto: int) -> tuple[int, bytes]:
    """Run a command whose output goes somewhere; give its exit code, and what it said of it."""
    done = subprocess.run(
        [*CODEBANK, *words], env=environment, stdout=onto, stderr=subprocess.PIPE, timeout=60, check=False
    )
    return done.returncode, done.stderr


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@pytest.mark.timeout(180)
def test_trap_c15_a_machine_set_up_for_everything_else_pays_and_proves_and_a_closed_terminal_stops_it_in_order(
    folder: Path,
) -> None:
    with counting_proxy() as (proxy, came):
        environment = hostile_environment(folder, proxy)
        terminal = Terminal(environment)
        try:
            terminal.read_until(b"Ctrl-C stops it.")
            shown = b"[::1]" if _own_host() == "::1" else b"localhost"
            assert b"http://" + shown + b":" in terminal.said

            paid = run(environment, "pay")
            assert paid.returncode == 0, paid.stderr
            assert run(environment, "health").returncode == 0
            cards = run(environment, "card", "list")
            assert json.loads(cards.stdout.decode("latin-1"))[0]["masked"].startswith("•••• ")

            proof = run(environment, "proof")
            assert (proof.returncode, proof.stderr) == (0, b"")
            assert b"\\u2713 " in proof.stdout
            # Whoever reads it has gone: that is no answer.
            with closed_pipe() as pipe:
                assert code_of(environment, "proof", onto=pipe) == (0, b"")
            with Path("/dev/full").open("wb") as full:
                code, said = code_of(environment, "proof", onto=full.fileno())
                assert (code, b"no space left on device" in said, b"Traceback" in said) == (2, True, False)

            terminal.close()
            assert terminal.process.wait(40) == 0
            assert [children(folder / NAME, role) for role in ROLES] == [[] for _ in ROLES]
            assert not (folder / NAME / "running.json").exists()
            assert not (folder / NAME / "postgres" / "data" / "postmaster.pid").exists()
        finally:
            if terminal.process.poll() is None:
                terminal.process.kill()
                terminal.process.wait()
        assert came == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("words", ["reference", "reference --events", "--help", "bench --help"])
def test_an_output_of_any_encoding_takes_every_answer(encoding: str, words: str) -> None:
    done = run({**os.environ, "PYTHONIOENCODING": encoding}, *words.split())

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("words", ["reference", "reference --events", "--help", "--version"])
def test_a_closed_pipe_changes_no_exit_code(words: str) -> None:
    with closed_pipe() as pipe:
        assert code_of(dict(os.environ), *words.split(), onto=pipe) == (0, b"")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_command_without_output_has_the_same_exit_code(closed: str) -> None:
    shell = ["sh", "-c", f'exec "$@" {">&-" if closed == "stdout" else "2>&-"}', "sh"]

    assert subprocess.run([*shell, *CODEBANK, "reference"], stdout=subprocess.DEVNULL, timeout=60).returncode == 0
    wrong = subprocess.run([*shell, *CODEBANK, "run", "nonsense"], capture_output=True, timeout=60)
    assert wrong.returncode == 2
