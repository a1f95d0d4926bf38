"""As whom a server runs that refuses root: ourselves, or `nobody` where we are root."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from codebank.errors import Code, CodebankError

#: As whom the server runs where we are root.
UNPRIVILEGED_USER: Final = "nobody"


def is_root() -> bool:
    """Say whether we are root."""
    return os.geteuid() == 0


def server_uid() -> int:
    """Give the user id of the server's processes."""
    return pwd.getpwnam(UNPRIVILEGED_USER).pw_uid if is_root() else os.geteuid()


def as_server_user() -> dict[str, Any]:
    """Give the arguments of `subprocess` with which a child runs as the server's user."""
    # `cwd`: the child must not start in a folder that its user may not enter.
    if not is_root():
        return {"cwd": "/"}
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    return {"cwd": "/", "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def looking_as_server_user() -> Iterator[None]:
    """As root, be the server's user for a moment: in a container, root may not see where another's process works.

    Meanwhile every thread is that user, so this is for looking only, before anything else runs.
    """
    entry, group = pwd.getpwnam(UNPRIVILEGED_USER), os.getegid()
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def give_to_server(folder: Path) -> None:
    """Make a folder of ours the server's own; never follows a link that somebody else may have put there."""
    if is_root():
        entry = pwd.getpwnam(UNPRIVILEGED_USER)
        os.chown(folder, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, such that the server's user may pass through what we made."""
    for missing in reversed([place for place in (folder, *folder.parents) if not place.exists()]):
        missing.mkdir(exist_ok=True)
        if is_root():
            # Whatever the umask: others may pass, not look.
            missing.chmod(0o711)


def make_reachable(folder: Path) -> None:
    """Make a folder that the server's user can reach, or say who is in the way.

    Folders that stand already are never opened up: what they hide may be hidden on purpose.
    """
    make_folder(folder)
    if not is_root():
        return
    closed = [place for place in folder.resolve().parents if not place.stat().st_mode & stat.S_IXOTH]
    if closed:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"PostgreSQL does not run as root, and user {UNPRIVILEGED_USER} may not enter {closed[-1]}",
            hint="set CODEBANK_STATE to a folder such as /var/lib/codebank, or run as an ordinary user",
        )
