"""Folders of a machine: where its state lies, and where what others must find by name lies beside it."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Final

_SYSTEM_STATE: Final = Path("/var/lib/codebank")
#: What no list, address or quotation takes for its own.
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._+~@ -]*")
_SOCKET_FOLDER_BYTES_MAX: Final = 80


def default_state_folder() -> Path:
    """Say where a machine's state lies: in its user's own state folder; in /var/lib for root, and who has no home."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return _SYSTEM_STATE
    try:
        places = (Path(os.environ.get("XDG_STATE_HOME", "")), Path.home() / ".local" / "state")
    except RuntimeError:
        # A user without a name, and without HOME.
        return _SYSTEM_STATE
    return next((base / "codebank" for base in places if base.is_absolute()), _SYSTEM_STATE)


def default_deploy_folder() -> Path:
    """Find the folder `deploy` of the checkout that this code runs in; else the one of the working folder."""
    beside = Path(__file__).parents[2] / "deploy"
    return beside if beside.is_dir() else Path.cwd() / "deploy"


def is_plain(path: Path) -> bool:
    """Tell whether nobody who is told a path takes a part of it for something else, such as the end of a list."""
    return _PLAIN.fullmatch(str(path)) is not None


def socket_folder(folder: Path) -> Path:
    """Choose where the embedded server of `folder` listens: a socket's path is short, 107 bytes at most, and plain."""
    inside = folder / "socket"
    if len(os.fsencode(inside)) <= _SOCKET_FOLDER_BYTES_MAX and is_plain(inside):
        return inside
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    # Not where TMPDIR says: a command in another terminal must find the same.
    return Path("/tmp") / f"codebank-{digest}"  # noqa: S108
