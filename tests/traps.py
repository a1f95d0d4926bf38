"""Lists the traps (real bugs that must not happen here) and the tests that stand guard: `make traps`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
#: Traps that this version decides; the others belong to parts that are not built yet.
DECIDED = [
    *(f"a{number}" for number in (10, 11, *range(13, 21), *range(22, 27))),
    *(f"b{number:02d}" for number in (*range(1, 11), *range(12, 24), 25, 26, 28)),
    *(f"c{number:02d}" for number in (*range(1, 12), 13, 15, 16)),
]


def guards() -> dict[str, list[str]]:
    """Give the named tests of each trap."""
    found: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("test_*.py")):
        for name in re.findall(r"def (test_trap_\w+)", path.read_text(encoding="utf-8")):
            for trap in re.findall(r"(?<=_)[abc]\d\d(?=_)", name):
                found.setdefault(trap, []).append(f"{path.relative_to(ROOT.parent)}::{name}")
    return found


def missing() -> list[str]:
    """Give the decided traps that no test guards."""
    there = guards()
    return [trap for trap in DECIDED if trap not in there]


if __name__ == "__main__":
    there = guards()
    for trap in sorted({*DECIDED, *there}):
        mark = "✓" if trap in there else "✕"
        sys.stdout.write(f"{mark} {trap.upper()}  {'; '.join(there.get(trap, ['no test']))}\n")
    raise SystemExit(1 if missing() else 0)
