"""What a running system spends: processor time and memory of each role and of PostgreSQL by database. Reads /proc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codebank.lab.processor import Process, processes

#: PostgreSQL's own processes, and its sessions that ended.
_POSTGRES: Final = "postgres"
#: Who reads every database; its sessions are told apart.
_READER: Final = "audit"
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Spent:
    """What every process below one had spent at a moment: process → its name and microseconds."""

    processes: Mapping[int, tuple[str, int]]

    def since(self, before: Spent) -> Counter[str]:
        """Give the microseconds that each name spent since."""
        spent: Counter[str] = Counter()
        for pid, (name, microseconds) in self.processes.items():
            spent[name] += microseconds - before.processes.get(pid, ("", 0))[1]
        for pid, (_, microseconds) in before.processes.items():
            if pid not in self.processes:
                # A session that ended: what it had spent before is now in the sum that its server keeps of such.
                spent[_POSTGRES] -= microseconds
        return spent


def spent_below(pid: int, *but: int) -> Spent:
    """Read what a process and all below it have spent, but for some."""
    return Spent(
        {
            one.pid: (name, one.own_microseconds + one.ended_microseconds)
            for one, name in _named(pid)
            if one.pid not in but
        }
    )


def resident_kilobytes(pid: int) -> Counter[str]:
    """Read the memory of a process and all below it, by name; what several share is divided among them."""
    held: Counter[str] = Counter()
    for process, name in _named(pid):
        held[name] += _share_of_memory(process.pid)
    return held


def _named(root_pid: int) -> Iterator[tuple[Process, str]]:
    """Give a process and all below it; one without a name of its own has that of whoever started it."""
    below: dict[int, list[Process]] = {}
    for process in processes():
        below.setdefault(process.parent_pid, []).append(process)
        if process.pid == root_pid:
            below[-1] = [process]
    waiting = [(process, "up") for process in below.get(-1, [])]
    while waiting:
        process, inherited = waiting.pop()
        name = _name(process.pid) or inherited
        yield process, name
        waiting += [(child, name) for child in below.get(process.pid, [])]


def _name(pid: int) -> str:
    try:
        command = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    words = command.split()
    _, is_role, role = command.partition(" codebank run ")
    if is_role:
        return role.split()[0]
    if command.startswith("postgres: "):
        is_session = words[3:4] == ["[local]"]
        return f"{_POSTGRES} {_READER if words[1] == _READER else words[2]}" if is_session else _POSTGRES
    return _POSTGRES if words and Path(words[0]).name == "postgres" else ""


def _share_of_memory(pid: int) -> int:
    for name, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = (_PROC / str(pid) / name).read_text().splitlines()
        except OSError:
            continue
        found = [int(line.split()[1]) for line in lines if line.startswith(field)]
        if found:
            return found[0]
    return 0
