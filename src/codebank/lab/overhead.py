"""`codebank bench metrics`: what counting costs the bank, beside the same bank that counts nothing.

Two banks on one database take turns. The server's own time per payment (user and system) tells more than the rate on a
busy machine, so both are given.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

from codebank.lab.load import BANK, closed_loop
from codebank.lab.processor import own_microseconds
from codebank.lab.rig import OpenServer, Rig, describe_machine, open_rig

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
    # Both beside the bench's own bank, so that the two are alike but for one thing.
    with open_rig(open_server, tell) as rig, rig.another() as loud, rig.another(_SILENT) as quiet:
        servers = {_COUNTING: loud, _SILENT: quiet}
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load:
            for server in servers.values():
                _turn(server, load, in_flight, 2)  # warms up; not counted
            for number in range(1, rounds + 1):
                # Who goes first changes, so that nobody always comes after the other.
                for name in sorted(rates, reverse=number % 2 == 0):
                    rate, cost = _turn(servers[name], load, in_flight, seconds)
                    rates[name].append(rate)
                    costs[name].append(cost)
                    tell(f"round {number}/{rounds}  {name:<9} {rate:>6}/s  {cost:>5} µs of the server each")
    return Overhead(in_flight, describe_machine(), rates, costs)


def _turn(server: Rig, load: ProcessPoolExecutor, in_flight: int, seconds: int) -> tuple[int, int]:
    before = own_microseconds(server.bank_pid)
    done = load.submit(closed_loop, server.target, seconds, BANK, in_flight).result()
    return done.per_second, (own_microseconds(server.bank_pid) - before) // max(1, done.items)


def table_of(result: Overhead) -> str:
    """Write a run as a table."""
    lines = [f"{result.rig}; {result.in_flight} calls in flight, medians (least-most)", ""]
    for what, figures in (("payments per second", result.rates), ("server µs each", result.costs)):
        for name, found in figures.items():
            lines.append(f"{what:<20} {name:<9} {round(statistics.median(found)):>6} ({min(found)}-{max(found)})")
        ratios = result.ratios_percent(figures)
        lines.append(f"{'':<20} counting is {round(statistics.median(ratios))} % of silent ({ratios[0]}-{ratios[-1]})")
    return "\n".join(lines)
