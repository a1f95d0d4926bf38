"""`codebank bench start`: how long `codebank up` takes until every role can be used, and until all of it has stopped.

First on a folder that is not there yet, then on the one that it left behind.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codebank.audit.proof.prove import prove_once
from codebank.errors import Code, CodebankError
from codebank.lab.rig import Tell, describe_machine
from codebank.lab.spending import resident_kilobytes
from codebank.lab.system import own_environment, running, until_ready
from codebank.runtime.children import command_of
from codebank.settings import Settings

FRESH: Final = "fresh"
AGAIN: Final = "again"
STOP: Final = "stop"


@dataclass(frozen=True, slots=True)
class StartResult:
    """A whole run."""

    #: What was timed → milliseconds, one of each round.
    milliseconds: Mapping[str, Sequence[int]]
    #: Memory of each role once all are ready, of the last round.
    resident_kilobytes: Mapping[str, int]
    rig: str

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            **{f"{name}_ms": round(statistics.median(each)) for name, each in self.milliseconds.items()},
            "rounds_ms": dict(self.milliseconds),
            "resident_kb": {**self.resident_kilobytes, "all": sum(self.resident_kilobytes.values())},
        }


def bench_start(rounds: int, tell: Tell) -> StartResult:
    """Start and stop systems. Raises CodebankError where one does not start, or its sides do not agree."""
    milliseconds: dict[str, list[int]] = {FRESH: [], AGAIN: [], STOP: []}
    resident: Mapping[str, int] = {}
    for number in range(1, rounds + 1):
        folder = Path(tempfile.mkdtemp(prefix="codebank-bench-"))
        folder.chmod(0o711)
        environment = own_environment(folder / "state")
        try:
            for name in (FRESH, AGAIN):
                began = time.perf_counter()
                with running(command_of("codebank", "up"), environment, folder) as system:
                    settings = Settings.load(environment)
                    asyncio.run(until_ready(settings, system, folder))
                    milliseconds[name].append(round((time.perf_counter() - began) * 1000))
                    resident = resident_kilobytes(system.pid)
                    if not asyncio.run(prove_once(Settings.load(environment))).agrees:
                        raise CodebankError(Code.INTERNAL, "the sides do not agree: no figures")
                    stopping = time.perf_counter()
                milliseconds[STOP].append(round((time.perf_counter() - stopping) * 1000))
                tell(f"round {number}/{rounds}  {name:<5} {milliseconds[name][-1]:>6} ms")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return StartResult(milliseconds, resident, describe_machine())


def table_of(result: StartResult) -> str:
    """Write a run as a table."""
    lines = [f"{result.rig}; medians (least–most)", ""]
    for name, each in result.milliseconds.items():
        lines.append(f"{name:<6} {round(statistics.median(each)):>6} ms ({min(each)}–{max(each)})")
    lines += ["", f"resident: {sum(result.resident_kilobytes.values()) // 1024} MB"]
    return "\n".join(lines)
