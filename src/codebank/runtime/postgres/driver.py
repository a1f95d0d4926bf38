"""What the driver is told of a server: the address in our settings, and nothing that this machine knows of others.

By itself the driver reads two dozen variables (PGSSLMODE, PGTARGETSESSIONATTRS, PGPORT …), `~/.pgpass` and the
certificates in `~/.postgresql`, all meant for whoever's servers its user works with by hand.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from asyncpg import connect_utils

_OTHERS: Final = "PG"


def address(dsn: str) -> dict[str, Any]:
    """Give the arguments with which the driver connects to an address, and to nothing else.

    The variables are forgotten in this whole process: no argument of the driver's takes the place of all of them.
    """
    for name in [name for name in os.environ if name.startswith(_OTHERS)]:
        del os.environ[name]
    # The driver asks it where certificates lie that no argument names; that is nowhere.
    connect_utils._dot_postgresql_path = _nowhere  # type: ignore[attr-defined]
    return {"dsn": dsn, "passfile": Path(os.devnull) / "none"}


def _nowhere(_file: str) -> None:
    return None
