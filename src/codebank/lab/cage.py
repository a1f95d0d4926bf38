"""Holds a process and its children to a share of the processors, by a control group where one can be made."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PERIOD_MICROSECONDS: Final = 100_000
#: How long the kernel may take to bury what ran inside.
_EMPTY_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Cage:
    """A group that may use some processors and no more; without a folder where this machine lets us make none."""

    folder: Path | None

    def command(self, words: Sequence[str]) -> list[str]:
        """Give the command that runs inside, with all that it starts."""
        if self.folder is None:
            return list(words)
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *words]


@contextlib.contextmanager
def caged(processors_percent: int) -> Iterator[Cage]:
    """Make a group that may use so many hundredths of a processor; what ran inside must have ended at the end."""
    folder = _make(processors_percent * _PERIOD_MICROSECONDS // 100)
    try:
        yield Cage(folder)
    finally:
        if folder is not None:
            _remove(folder)


def _make(quota_microseconds: int) -> Path | None:
    for parent, limits in _places(quota_microseconds):
        folder = parent / f"codebank-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            for name, text in limits.items():
                (folder / name).write_text(text)
        except OSError:
            _remove(folder)
            continue
        return folder
    return None


def _places(quota_microseconds: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """Give where a group may be made, and what holds it there: of version 1 of control groups, and of version 2."""
    quota, period = str(quota_microseconds), str(_PERIOD_MICROSECONDS)
    own = dict(line.split(":", 2)[1:] for line in _lines("/proc/self/cgroup"))
    for _, mounted, kind, options, *_ in (line.split() for line in _lines("/proc/mounts")):
        if kind == "cgroup" and "cpu" in options.split(","):
            path = next((path for names, path in own.items() if "cpu" in names.split(",")), "/")
            yield Path(f"{mounted}{path}"), {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}
        elif kind == "cgroup2":
            # A group that has processes hands no processors on, so ours stands beside it; a root may have both.
            beside = Path(f"{mounted}{own.get('', '/')}")
            yield (beside if beside == Path(mounted) else beside.parent), {"cpu.max": f"{quota} {period}"}


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while True:
        try:
            return folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                return None
        time.sleep(0.05)
