"""An embedded PostgreSQL: a real server on a unix socket, its binaries from a wheel, supervised by us.

Made so that it survives what happens on a laptop: kill -9 of anything, a half-finished first start, an orphan of an
earlier run, and being started as root (PostgreSQL refuses root, so it then runs as `nobody`).

Nobody has a password: the server trusts whoever reaches its socket, and the socket's folder lets in only the user who
runs the server (and root). There is no network address to reach it by.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from codebank.errors import Code, CodebankError
from codebank.folders import socket_folder
from codebank.machine.admission import lets_in
from codebank.machine.binaries import runnable_tree
from codebank.machine.initdb import SHARED_MEMORY, make_data
from codebank.machine.orphans import stop_orphans
from codebank.machine.unprivileged import as_server_user, give_to_server, make_reachable, server_uid
from codebank.runtime.children import die_with_parent

#: Long, because a server that replays its log after a crash is at work; one that dies is seen at once.
_START_TIMEOUT_SECONDS: Final = 120
_STOP_TIMEOUT_SECONDS: Final = 30
_POLL_SECONDS: Final = 0.01
_WATCH_SECONDS: Final = 0.2
#: How often it is asked whether it lets anybody in, and how many times in a row it may not.
_ASK_SECONDS: Final = 2
_SILENT_MAX: Final = 5
_RETRY_MAX_SECONDS: Final = 5
#: Which line of `postmaster.pid` says how far the server is, counted from nought.
_STATUS_LINE: Final = 7

#: Durability is never traded for speed outside tests.
_DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_FLEETING: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    "max_wal_size": "2GB",
    "unix_socket_permissions": "0700",
    "port": "5432",
    "dynamic_shared_memory_type": SHARED_MEMORY,
}


@dataclass
class EmbeddedPostgres:
    """A server whose data lie in one folder. One process at a time may use the folder: see `StateLock`.

    The server stops when the thread that started it ends, however it ends; so start it from the main thread.
    """

    folder: Path
    durable: bool = True
    #: A folder with `bin/postgres`; found by itself if not given.
    binaries: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.absolute()

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    @property
    def log_path(self) -> Path:
        """Where the server's messages go."""
        return self.folder / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def dsn(self, database: str, role: str) -> str:
        """Give the address of a database for a role."""
        host = quote(str(socket_folder(self.folder)), safe="")
        return f"postgresql://{quote(role, safe='')}@/{quote(database, safe='')}?host={host}"

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, making its data folder the first time; return when it answers.

        Raises CodebankError with the reason if it does not.
        """
        if self.pid is not None:
            return
        make_reachable(self.folder)
        give_to_server(self.folder.resolve())
        tree, version = runnable_tree(self.folder, self.binaries)
        self._require_data_is_ours()
        stop_orphans(self.data)
        if not self.data.exists():
            make_data(self.data, tree, version, durable=self.durable)
        self._launch(tree, _fresh_sockets(socket_folder(self.folder)))

    def stop(self) -> None:
        """Stop the server: fast, and for sure."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        # Finish; drop everything; be gone: one that hangs hears nothing but the last.
        for number, timeout_seconds in (
            (signal.SIGINT, _STOP_TIMEOUT_SECONDS),
            (signal.SIGQUIT, 5),
            (signal.SIGKILL, 5),
        ):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_seconds)
                return

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    async def keep_running(self, say: Callable[[str], None]) -> None:
        """Start the server again whenever it dies, until cancelled; cancel this before `stop()`."""
        pause_seconds = _WATCH_SECONDS
        while True:
            await asyncio.sleep(pause_seconds)
            if self.pid is not None:
                pause_seconds = _WATCH_SECONDS
                continue
            try:
                say("postgres died; starting it again")
                # In this thread, on purpose: the server would die with the thread that starts it.
                self.start()
                say("postgres is ready again")
            except CodebankError as error:
                say(str(error))
                pause_seconds = min(pause_seconds * 2, _RETRY_MAX_SECONDS)

    async def end_if_it_hangs(self, say: Callable[[str], None]) -> None:
        """End the server whenever it lets nobody in for long, so that it is started again; until cancelled."""
        silent = 0
        while True:
            await asyncio.sleep(_ASK_SECONDS)
            pid = self.pid
            # Counted by questions, not by time: whoever stops us, or the machine, stops the counting too.
            silent = silent + 1 if pid is not None and not await lets_in(socket_folder(self.folder)) else 0
            if pid is not None and silent == _SILENT_MAX:
                say("postgres lets nobody in; killed")
                # What it has started ends when it sees that, or when the next one is started.
                os.kill(pid, signal.SIGKILL)
                silent = 0

    def _require_data_is_ours(self) -> None:
        if not self.data.exists():
            return
        owner = self.data.stat().st_uid
        if owner != server_uid():
            raise CodebankError(
                Code.FAILED_PRECONDITION,
                f"the data in {self.data} belong to user {_user_name(owner)}, the server would be "
                f"{_user_name(server_uid())}",
                hint="start as the user who started it first, or set CODEBANK_STATE to another folder",
            )
        if not (self.data / "PG_VERSION").exists():
            raise CodebankError(
                Code.FAILED_PRECONDITION,
                f"{self.data} is not a PostgreSQL data folder, or only a part of one",
                hint="remove it if nothing in it is needed, or set CODEBANK_STATE to another folder",
            )

    def _launch(self, tree: Path, sockets: Path) -> None:
        # Quoted: the setting is a list, and a folder's name may have a comma.
        listed = '"' + str(sockets).replace('"', '""') + '"'
        settings = _SETTINGS | (_DURABLE if self.durable else _FLEETING) | {"unix_socket_directories": listed}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            log_start_bytes = log.tell()
            self._process = subprocess.Popen(
                [str(tree / "bin" / "postgres"), "-D", str(self.data), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C in the terminal reaches `up` first, which stops the server last.
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),
                **as_server_user(),
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not self._is_ready():
            if self.pid is None or time.monotonic() > deadline:
                self.stop()
                written = self.log_path.read_bytes()[log_start_bytes:].decode(errors="replace")
                raise CodebankError(
                    Code.INTERNAL,
                    f"the embedded PostgreSQL did not start:\n{written.strip()[-1000:]}",
                    hint=f"its whole log is {self.log_path}",
                )
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        # The server itself writes here when it takes connections, recovery done; `pg_ctl` waits for the same line.
        try:
            lines = (self.data / "postmaster.pid").read_bytes().split(b"\n")
        except OSError:
            return False
        return (
            len(lines) > _STATUS_LINE and lines[0] == str(self.pid).encode() and lines[_STATUS_LINE].strip() == b"ready"
        )


def _fresh_sockets(sockets: Path) -> Path:
    """Make the socket folder anew, so that nobody else can have prepared it: it may lie in a shared temporary folder.

    Only its owner may enter, so that who can reach the socket is whom the server trusts.
    """
    try:
        if sockets.is_dir() and not sockets.is_symlink():
            shutil.rmtree(sockets)
        else:
            sockets.unlink(missing_ok=True)
        sockets.mkdir(mode=0o700)
    except OSError as error:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"the socket folder {sockets} cannot be made: {error.strerror}",
            hint="remove it, or set CODEBANK_STATE to a folder with a shorter name",
        ) from error
    give_to_server(sockets)
    return sockets


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
