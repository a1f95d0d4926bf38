"""What processes cost: processor time and memory, as the kernel counts them (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_TICK_MICROSECONDS: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the name, counted from nought.
_PARENT: Final = 1
_OWN: Final = slice(11, 13)
_OF_ENDED_CHILDREN: Final = slice(13, 15)


def own_microseconds(pid: int) -> int:
    """Give the processor time of a process: its own, and the kernel's for it."""
    return sum(map(int, _stat(pid)[_OWN])) * _TICK_MICROSECONDS


def family_microseconds(pid: int) -> int:
    """Give the processor time of a process and its children, also of those that ended."""
    ticks = sum(map(int, _stat(pid)[_OF_ENDED_CHILDREN]))
    for process in (pid, *children_of(pid)):
        try:
            ticks += sum(map(int, _stat(process)[_OWN]))
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile; the next look counts it among its parent's
    return ticks * _TICK_MICROSECONDS


def children_of(pid: int) -> list[int]:
    """List the children of a process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int(_stat(int(folder.name))[_PARENT]) == pid:
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def resident_bytes(pid: int) -> int:
    """Give the memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    # The name is in brackets and may hold anything; after the last one come numbers.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
