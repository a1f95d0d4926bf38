"""Files that others must see whole, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int, owner: int | None = None) -> None:
    """Put a file in its place in one step, with its mode and owner from the first moment on.

    Whoever may write it at the same time must be kept out by the caller.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            # Whatever the process's own mask takes away.
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), owner, owner)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def make_private_folder(folder: Path, owner: int | None = None) -> None:
    """Make a folder that only its owner enters; one that is there stays as it is."""
    if folder.is_dir():
        return
    # Somebody else may make it in this very moment.
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(folder, owner, owner)


@contextmanager
def alone_in(folder: Path, owner: int | None = None) -> Iterator[None]:
    """Make a folder if need be, and keep others who do the same out of it meanwhile."""
    make_private_folder(folder, owner)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
