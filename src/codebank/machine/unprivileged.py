"""As whom a server runs that refuses root: ourselves, or `nobody` where we are root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from codebank.errors import Code, CodebankError

#: As whom the server runs where we are root.
UNPRIVILEGED_USER: Final = "nobody"
#: What the loader reads, and what gives names to users who have none.
_LOADING: Final = ("LD_", "DYLD_", "NSS_WRAPPER_")
_CLONE_NEWUSER: Final = 0x10000000

BeforeExec = Callable[[], None]


def is_root() -> bool:
    """Say whether we are root."""
    return os.geteuid() == 0


def server_uid() -> int:
    """Give the user id of the server's processes."""
    return pwd.getpwnam(UNPRIVILEGED_USER).pw_uid if is_root() else os.geteuid()


def as_server_user() -> dict[str, Any]:
    """Give the arguments of `subprocess` with which a child runs as the server's user.

    It sees what every program is found and loaded by, and nothing that is meant for others: no PGPORT, no language.
    """
    kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith(_LOADING)}
    # `cwd`: the child must not start in a folder that its user may not enter.
    alike: dict[str, Any] = {"cwd": "/", "env": {**kept, "LC_ALL": "C", "TZ": "UTC"}}
    if not is_root():
        return alike
    entry = pwd.getpwnam(UNPRIVILEGED_USER)
    return {**alike, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def has_name() -> bool:
    """Say whether this machine knows our user by a name; a container may run as any number."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


def under_a_name(before_exec: BeforeExec | None) -> BeforeExec | None:
    """Make a `preexec_fn` for a program that asks for its user's name; what it makes is ours all the same.

    Where we have none it is `nobody` in a user namespace of its own (Linux); where that may not be, as we are.
    """
    if sys.platform != "linux" or has_name():
        return before_exec
    named = next((entry for entry in pwd.getpwall() if entry.pw_name == UNPRIVILEGED_USER), None)
    if named is None:
        return before_exec
    # Looked up before the fork: after it, only what is safe in a copied process may be done.
    unshare = ctypes.CDLL(None).unshare
    told = {
        "setgroups": b"deny",
        "uid_map": f"{named.pw_uid} {os.geteuid()} 1".encode(),
        "gid_map": f"{named.pw_gid} {os.getegid()} 1".encode(),
    }

    def become_named() -> None:
        if unshare(_CLONE_NEWUSER) == 0:
            for name, text in told.items():
                handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
                os.write(handle, text)
                os.close(handle)
        if before_exec is not None:
            before_exec()

    return become_named


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
