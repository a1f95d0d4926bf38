"""What processes cost: processor time and memory, as the kernel counts them (proc(5))."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_MICROSECONDS: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process at a moment, with the processor time that it, and the kernel for it, has spent."""

    pid: int
    parent_pid: int
    own_microseconds: int
    #: Of those of its children that ended, such as sessions of a server.
    ended_microseconds: int

    @property
    def whole_microseconds(self) -> int:
        """Its own, with that of its children that ended."""
        return self.own_microseconds + self.ended_microseconds


def process_of(pid: int) -> Process:
    """Look at a process. Raises OSError where it has ended."""
    # The name is in brackets and may hold anything; after the last one come numbers.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, ended_user, ended_system = map(int, fields[11:15])
    return Process(
        pid, int(fields[1]), (user + system) * _TICK_MICROSECONDS, (ended_user + ended_system) * _TICK_MICROSECONDS
    )


def processes() -> Iterator[Process]:
    """Look at every process of this machine; those that end meanwhile are left out."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield process_of(int(folder.name))


def own_microseconds(pid: int) -> int:
    """Give the processor time of a process: its own, and the kernel's for it."""
    return process_of(pid).own_microseconds


def family_microseconds(pid: int) -> int:
    """Give the processor time of a process and its children, also of those that ended."""
    children = sum(one.own_microseconds for one in processes() if one.parent_pid == pid)
    return process_of(pid).whole_microseconds + children


def children_of(pid: int) -> list[int]:
    """List the children of a process."""
    return [one.pid for one in processes() if one.parent_pid == pid]


def resident_bytes(pid: int) -> int:
    """Give the memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
