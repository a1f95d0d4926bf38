"""`codebank bench size`: a bank with many payments and accounts beside one that has none, in alternating rounds.

The payments are written by the bank's own statement, decided by its own rules, and shipped to the log by its own relay,
so that the proof holds for all of them.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any, Final

from codebank.bank.metrics import METRICS as BANK_METRICS
from codebank.eventlog.choice import open_log
from codebank.eventlog.metrics import METRICS
from codebank.eventlog.outbox import backlog
from codebank.eventlog.relay import Relay
from codebank.lab.bench import (
    Contender,
    Figure,
    Measured,
    authorize,
    figure_of,
    measure,
    rate_ratios,
    require_each_once,
)
from codebank.lab.plain_sql import fill
from codebank.lab.rig import OpenServer, Rig, Tell, describe_machine, open_rig
from codebank.runtime.postgres.pool import connected
from codebank.runtime.process import pause
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings

EMPTY: Final = "empty"
FILLED: Final = "filled"
CALLERS: Final = (32, 128)
#: Cards that are charged, of however many there are.
_SPREAD: Final = 20_000
#: Payments between two signs of life.
_STEP: Final = 100_000
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class SizeResult:
    """A whole run, all of whose payments were found, each once."""

    payments: int
    accounts: int
    figures: Sequence[Figure]
    #: Callers → rates of the filled bank to those of the empty one, sorted.
    ratios: dict[int, Sequence[Any]]
    rig: str

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "payments": self.payments,
            "accounts": self.accounts,
            "proof_agrees": True,
            "contenders": [asdict(figure) for figure in self.figures],
            "ratios": {f"filled_to_empty_{n}": round(statistics.median(each), 3) for n, each in self.ratios.items()},
        }


def bench_size(
    open_server: OpenServer, payments: int, accounts: int, rounds: int, seconds: int, tell: Tell
) -> SizeResult:
    """Fill a bank and measure it beside an empty one.

    Raises CodebankError, and so gives no figure, where a payment is lost or doubled, or the sides do not agree.
    """
    with ExitStack() as stack:
        spread = min(accounts, _SPREAD)
        load = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        rigs = {
            EMPTY: stack.enter_context(open_rig(open_server, tell, spread)),
            FILLED: stack.enter_context(open_rig(open_server, tell, accounts)),
        }
        there = {EMPTY: 0, FILLED: _filled(rigs[FILLED], load, payments, tell)}
        rigs = {name: _spread_over(rig, spread) for name, rig in rigs.items()}
        measured: dict[tuple[str, int], list[Measured]] = {}
        for number in range(rounds + 1):  # the first warms up; it is not counted
            for callers in CALLERS:
                for name, rig in rigs.items():
                    found = measure(_contender(name, callers), rig, load, seconds if number else 1)
                    there[name] += found.turn.items
                    if number:
                        measured.setdefault((name, callers), []).append(found)
                        tell(f"round {number}/{rounds}  {name:<6} {callers:>3}  {found.turn.per_second:>7}/s")
        tell("proving")
        for name, rig in rigs.items():
            asyncio.run(require_each_once(rig.settings, there[name]))
    figures = [figure_of(_contender(name, callers), each) for (name, callers), each in measured.items()]
    ratios = {callers: rate_ratios(measured[FILLED, callers], measured[EMPTY, callers]) for callers in CALLERS}
    return SizeResult(payments, accounts, figures, ratios, describe_machine())


def _contender(name: str, callers: int) -> Contender:
    return replace(authorize(callers), name=name)


def _spread_over(rig: Rig, cards: int) -> Rig:
    chosen = random.sample(list(rig.target.cards), cards)
    return replace(rig, target=replace(rig.target, cards=chosen))


def _filled(rig: Rig, load: ProcessPoolExecutor, payments: int, tell: Tell) -> int:
    written = 0
    while written < payments:
        written += load.submit(fill, rig.target, min(_STEP, payments - written)).result()
        asyncio.run(_ship(rig.settings))
        tell(f"{written} of {payments} payments")
    asyncio.run(_settle(rig.settings))
    return written


async def _ship(settings: Settings) -> None:
    """Ship what waits in the outbox."""
    stop, telemetry = asyncio.Event(), Telemetry((*METRICS, *BANK_METRICS))
    async with (
        open_log(settings, "relay") as log,
        connected(settings.database_url("bank"), role="bench") as bank,
        asyncio.TaskGroup() as works,
    ):
        works.create_task(Relay(settings.database_url("bank"), log, telemetry, batch_max=1000).run(stop))
        while (await backlog(bank)).events:
            await pause(stop, _LOOK_SECONDS)
        stop.set()


async def _settle(settings: Settings) -> None:
    """Leave the database as it is once it has rested: its rows counted, its dead ones gone."""
    async with connected(settings.database_url("bank"), role="bench") as connection:
        await connection.execute("set statement_timeout = 0")
        await connection.execute("vacuum analyze", timeout=3600)


def table_of(result: SizeResult) -> str:
    """Write a run as a table."""
    lines = [
        f"{result.rig}; {result.payments} payments on {result.accounts} accounts beside none, alternating rounds",
        "",
        f"{'':<7} {'callers':>7} {'per second':>10} {'p50 ms':>7} {'p99 ms':>7} {'server µs':>9} {'postgres µs':>11}",
    ]
    for one in result.figures:
        lines.append(
            f"{one.name:<7} {one.callers:>7} {one.requests_per_second:>10} {one.p50_ms:>7} {one.p99_ms:>7}"
            f" {one.server_cpu_us:>9} {one.postgres_cpu_us:>11}"
        )
    lines.append("")
    for callers, each in result.ratios.items():
        lines.append(f"filled_to_empty_{callers:<4} {statistics.median(each):.2f} ({each[0]:.2f}–{each[-1]:.2f})")
    return "\n".join([*lines, "", "all sides agree"])
