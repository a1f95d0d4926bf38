"""Servers that an earlier run left behind: found by the folder they work in, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.machine.unprivileged import is_root, looking_as_server_user

#: How to ask, and for how long, before asking louder: finish; drop everything; be gone.
_STEPS: Final = ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10))
_PAUSE_SECONDS: Final = 0.02


def stop_orphans(data: Path) -> None:
    """Stop every PostgreSQL process that still works on a data folder, so that a new server may have it.

    Whoever calls this must hold the folder's lock: a server that somebody else needs is stopped too.
    """
    pid_file = data / "postmaster.pid"
    recorded = _recorded(pid_file)
    for number, timeout_seconds in _STEPS:
        found = server_processes(data)
        if not found:
            break
        if number == signal.SIGINT:
            # Only the first process understands this as "stop"; without it the others are asked louder at once.
            found = [pid for pid in found if pid == recorded]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if found:
            _wait_gone(data, timeout_seconds)
    left = server_processes(data)
    if left:
        raise CodebankError(Code.INTERNAL, f"an earlier PostgreSQL does not stop: process {left[0]}")
    if recorded is not None and _exists(recorded):
        # The number belongs to some other program now, which PostgreSQL would take for a running server.
        # A file with a dead number stays: by it the new server finds and checks the old one's shared memory.
        pid_file.unlink(missing_ok=True)


def server_processes(data: Path) -> list[int]:
    """List the PostgreSQL processes that work on a data folder, whatever path they were started with."""
    if sys.platform != "linux":
        return _by_ps(data)
    found = _by_proc(data)
    if is_root():
        with looking_as_server_user():
            found |= _by_proc(data)
    return sorted(found)


def _by_proc(data: Path) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        # Each of them has the data folder as its working directory. Processes end while we look: those are skipped.
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text().strip() == "postgres" and (entry / "cwd").samefile(data):
                found.add(int(entry.name))
    return found


def _by_ps(data: Path) -> list[int]:
    listed = subprocess.run(["/bin/ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, command in lines if f"postgres -D {data} " in command]


def _recorded(pid_file: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(pid_file.read_bytes().split(b"\n")[0])
    return None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _wait_gone(data: Path, timeout_seconds: int) -> None:
    deadline = time.monotonic() + timeout_seconds
    while server_processes(data) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
