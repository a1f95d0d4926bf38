"""`codebank bench metrics`: what counting costs the bank, beside the same bank that counts nothing.

Two banks on one database take turns. The server's own time per payment (user and system) tells more than the rate on a
busy machine, so both are given.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from codebank.lab.bench import OpenServer, bench_system, rig, serving, some_port
from codebank.lab.load import run_turn

_COUNTING: Final = "counting"
_SILENT: Final = "silent"


@dataclass(frozen=True, slots=True)
class Overhead:
    """A whole run."""

    in_flight: int
    rig: str
    #: Contender → payments per second, a figure per round.
    rates: dict[str, list[int]]
    #: Contender → the server's own microseconds per payment, a figure per round.
    costs: dict[str, list[int]]

    def ratios_percent(self, figures: dict[str, list[int]]) -> Sequence[int]:
        """Give counting in percent of silent, round by round."""
        pairs = zip(figures[_COUNTING], figures[_SILENT], strict=True)
        return sorted(round(counting * 100 / max(1, silent)) for counting, silent in pairs)

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "in_flight": self.in_flight,
            "rates": self.rates,
            "server_microseconds": self.costs,
            "rate_percent": self.ratios_percent(self.rates),
            "server_percent": self.ratios_percent(self.costs),
        }


def bench_metrics(
    open_server: OpenServer, rounds: int, seconds: int, in_flight: int, tell: Callable[[str], None]
) -> Overhead:
    """Measure in alternating rounds on a system of its own. Works on Linux."""
    rates: dict[str, list[int]] = {_COUNTING: [], _SILENT: []}
    costs: dict[str, list[int]] = {_COUNTING: [], _SILENT: []}
    with bench_system(open_server, tell) as (settings, target):
        # Both beside the bench's own bank, so that the two are alike but for one thing.
        loud, quiet = (replace(settings, bank_port=some_port(), bank_health_port=some_port()) for _ in rates)
        with serving(loud) as one, serving(quiet, _SILENT) as other:
            servers = {_COUNTING: (one.pid, loud.bank_port), _SILENT: (other.pid, quiet.bank_port)}
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load:

                def turn(name: str, length_seconds: int) -> tuple[int, int]:
                    pid, port = servers[name]
                    there, before = replace(target, address=f"127.0.0.1:{port}"), _microseconds(pid)
                    done = load.submit(run_turn, there, "authorize", in_flight, length_seconds).result()
                    return done.per_second, (_microseconds(pid) - before) // max(1, done.items)

                for name in rates:
                    turn(name, 2)  # warms up; not counted
                for number in range(1, rounds + 1):
                    # Who goes first changes, so that nobody always comes after the other.
                    for name in sorted(rates, reverse=number % 2 == 0):
                        rate, cost = turn(name, seconds)
                        rates[name].append(rate)
                        costs[name].append(cost)
                        tell(f"round {number}/{rounds}  {name:<9} {rate:>6}/s  {cost:>5} µs of the server each")
    return Overhead(in_flight, rig(), rates, costs)


def _microseconds(pid: int) -> int:
    """Give the time that a process has spent, its own and the kernel's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // os.sysconf("SC_CLK_TCK")


def table_of(result: Overhead) -> str:
    """Write a run as a table."""
    lines = [f"{result.rig}; {result.in_flight} calls in flight, medians (least-most)", ""]
    for what, figures in (("payments per second", result.rates), ("server µs each", result.costs)):
        for name, found in figures.items():
            lines.append(f"{what:<20} {name:<9} {round(statistics.median(found)):>6} ({min(found)}-{max(found)})")
        ratios = result.ratios_percent(figures)
        lines.append(f"{'':<20} counting is {round(statistics.median(ratios))} % of silent ({ratios[0]}-{ratios[-1]})")
    return "\n".join(lines)
