"""How child processes are started, and what one does before it becomes another program."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def command_of(module: str, *arguments: str) -> list[str]:
    """Give the command that runs a module of ours: no file of the folder where it starts stands in for one."""
    return [sys.executable, "-P", "-m", module, *arguments]


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Make a `preexec_fn` with which a child is sent a signal when its parent dies, even by kill -9 (Linux only)."""
    if sys.platform != "linux":
        return None
    # Looked up before the fork: after it, only what is safe in a copied process may be done.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))

    return before_exec
