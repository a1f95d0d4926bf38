"""The lock on a machine's state: one `up` at a time, and whoever comes second learns who is there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from codebank.errors import Code, CodebankError
from codebank.machine.unprivileged import make_folder


class StateLocked(CodebankError):
    """The state is in use; carries who uses it, and where they can be reached."""

    def __init__(self, folder: Path, pid: int | None, addresses: Mapping[str, str]) -> None:
        who = f"process {pid}" if pid else "another process"
        lines = [f"codebank already runs on {folder} as {who}", *(f"{name}: {at}" for name, at in addresses.items())]
        stop = f"stop it with `kill {pid}`" if pid else "stop it"
        hint = f"use it, {stop}, or set CODEBANK_STATE to another folder"
        super().__init__(Code.FAILED_PRECONDITION, "\n".join(lines), hint=hint)
        self.pid = pid
        self.addresses = dict(addresses)


class StateLock:
    """A lock on a folder that goes with the process that holds it, even by kill -9."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "up.lock"
        self._handle: int | None = None

    def acquire(self, addresses: Mapping[str, str]) -> None:
        """Take the lock and write down where we can be reached; raise StateLocked if somebody has it."""
        make_folder(self.folder)
        # The file is never removed: a lock on one that another process has just replaced would lock nothing.
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise StateLocked(self.folder, *_holder(self.path)) from None
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps({"pid": os.getpid(), "addresses": dict(addresses)}).encode())
        self._handle = handle

    def release(self) -> None:
        """Give the lock back. Safe to repeat."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.ftruncate(handle, 0)
            os.close(handle)

    @contextlib.contextmanager
    def held(self, addresses: Mapping[str, str]) -> Iterator[None]:
        """Hold the lock for as long as the block lasts."""
        self.acquire(addresses)
        try:
            yield
        finally:
            self.release()


def _holder(path: Path) -> tuple[int | None, dict[str, str]]:
    # Whoever has just taken the lock may not have written yet.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        written = json.loads(path.read_text())
        return int(written["pid"]), {str(name): str(at) for name, at in written["addresses"].items()}
    return None, {}
