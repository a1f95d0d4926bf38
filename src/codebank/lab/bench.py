"""`codebank bench authorize`: our Authorize beside a no-op echo of the same server and the same rows by plain SQL.

Contenders take turns in one run, so that a busy machine slows them all; figures are medians with their spread, and
what counts is the ratio. PostgreSQL is embedded and durable (fsync on); the load is a process of its own, and says what
it costs. A run that loses or doubles a payment has no figures.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

from codebank.audit.proof.prove import prove_once
from codebank.errors import Code, CodebankError
from codebank.lab.benchserver import ECHO, ECHO_STREAM
from codebank.lab.load import BANK, BANK_STREAM, STREAM_DEPTH, Target, Turn, closed_loop, open_loop, stream
from codebank.lab.mixing import mixed_loop
from codebank.lab.percentiles import percentile
from codebank.lab.plain_sql import sql
from codebank.lab.rig import OpenServer, Rig, Tell, describe_machine, open_rig
from codebank.runtime.postgres.pool import connected
from codebank.settings import Settings

_OPEN_LOOP_PER_SECOND: Final = 100


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is measured, and how."""

    name: str
    #: Calls under way at once, or messages of a stream; of the open loop, calls in a second.
    callers: int
    #: Loads a target for so many seconds; runs in the load's own process.
    load: Callable[[Target, int], Turn]
    #: Whether it makes payments.
    pays: bool = True
    #: Whether a bank serves it that carries out one operation per transaction.
    one_by_one: bool = False
    #: Whether it has accounts of its own, because it writes them behind the back of the bank that is measured.
    is_apart: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """Contenders that take turns."""

    contenders: Sequence[Contender]
    #: Name → contender, and the one that it is measured against: names and callers.
    ratios: Mapping[str, tuple[tuple[str, int], tuple[str, int]]]


def _echo(callers: int) -> Contender:
    return Contender("echo", callers, partial(closed_loop, path=ECHO, callers=callers), pays=False)


def authorize(callers: int) -> Contender:
    """Charge cards, with so many calls under way."""
    return Contender("authorize", callers, partial(closed_loop, path=BANK, callers=callers))


def _mixed(callers: int) -> Contender:
    return Contender("mixed", callers, partial(mixed_loop, callers=callers))


def _hot(target: Target, seconds: int, callers: int) -> Turn:
    return closed_loop(replace(target, cards=target.cards[:1]), seconds, BANK, callers)


_HOT: Final = (
    Contender("hot", 64, partial(_hot, callers=64)),
    Contender("spread", 64, partial(closed_loop, path=BANK, callers=64)),
)
AUTHORIZE: Final = Scenario(
    (
        *(_echo(1), authorize(1), authorize(2)),
        *(_echo(32), authorize(32), replace(authorize(32), name="single", one_by_one=True, is_apart=True)),
        *(_echo(128), authorize(128)),
        *_HOT,
        Contender("echo stream", STREAM_DEPTH, partial(stream, path=ECHO_STREAM), pays=False),
        Contender("stream", STREAM_DEPTH, partial(stream, path=BANK_STREAM)),
        Contender("sql", 1, sql, is_apart=True),
        Contender("open loop", _OPEN_LOOP_PER_SECOND, partial(open_loop, path=BANK, per_second=_OPEN_LOOP_PER_SECOND)),
    ),
    {
        "authorize_to_echo_32": (("authorize", 32), ("echo", 32)),
        "authorize_to_echo_128": (("authorize", 128), ("echo", 128)),
        "stream_to_sql": (("stream", STREAM_DEPTH), ("sql", 1)),
        "gathered_to_single": (("authorize", 32), ("single", 32)),
        "hot_to_spread": (("hot", 64), ("spread", 64)),
    },
)
#: Operations of every kind against charges alone.
MIXED: Final = Scenario(
    (*(authorize(32), _mixed(32)), *(authorize(128), _mixed(128))),
    {f"mixed_to_authorize_{callers}": (("mixed", callers), ("authorize", callers)) for callers in (32, 128)},
)
#: One account against many: who writes it must wait for whoever wrote it before.
HOT: Final = Scenario(_HOT, {"hot_to_spread": (("hot", 64), ("spread", 64))})


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn of a contender, with what it cost."""

    turn: Turn
    server_microseconds: int
    postgres_microseconds: int


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contender reached: medians of the rounds."""

    name: str
    callers: int
    requests_per_second: int
    requests_per_second_min: int
    requests_per_second_max: int
    p50_ms: Any
    p99_ms: Any
    #: Processor time per request, in microseconds: of the server, of PostgreSQL, and of the load.
    server_cpu_us: int
    postgres_cpu_us: int
    load_cpu_us: int


@dataclass(frozen=True, slots=True)
class Result:
    """A whole run, all of whose payments were found, each once."""

    figures: Sequence[Figure]
    #: Ratios of rates: name → one of each round, sorted.
    ratios: Mapping[str, Sequence[Any]]
    rounds: int
    seconds: int
    rig: str
    payments: int

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "payments": self.payments,
            "proof_agrees": True,
            "contenders": [asdict(figure) for figure in self.figures],
            "ratios": {name: round(statistics.median(each), 3) for name, each in self.ratios.items()},
            "ratios_spread": {name: [round(each[0], 3), round(each[-1], 3)] for name, each in self.ratios.items()},
        }


def run_scenario(scenario: Scenario, open_server: OpenServer, rounds: int, seconds: int, tell: Tell) -> Result:
    """Measure in alternating rounds on a system of its own, then prove that every side agrees.

    Raises CodebankError where a payment was lost, doubled or refused.
    """
    with ExitStack() as stack:
        rig, apart = stack.enter_context(open_rig(open_server, tell)).halves()
        single = apart
        if any(one.one_by_one for one in scenario.contenders):
            single = stack.enter_context(apart.another(batch_size_max=1))
        load = stack.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
        measured: dict[tuple[str, int], list[Measured]] = {(one.name, one.callers): [] for one in scenario.contenders}
        payments = 0
        for number in range(rounds + 1):  # the first warms up; it is not counted
            for one in scenario.contenders:
                mine = single if one.one_by_one else apart if one.is_apart else rig
                found = measure(one, mine, load, seconds if number else 1)
                payments += found.turn.items - found.turn.others if one.pays else 0
                if number:
                    measured[one.name, one.callers].append(found)
                    tell(f"round {number}/{rounds}  {one.name:<11} {one.callers:>3}  {found.turn.per_second:>7}/s")
        tell("proving")
        asyncio.run(require_each_once(rig.settings, payments))
    figures = [figure_of(one, measured[one.name, one.callers]) for one in scenario.contenders]
    return Result(figures, dict(_ratios(scenario, measured)), rounds, seconds, describe_machine(), payments)


def measure(contender: Contender, rig: Rig, load: ProcessPoolExecutor, seconds: int) -> Measured:
    """Let a contender have its turn."""
    before = rig.spent_microseconds()
    turn = load.submit(contender.load, rig.target, seconds).result()
    server, postgres = (after - one for one, after in zip(before, rig.spent_microseconds(), strict=True))
    return Measured(turn, server, postgres)


async def require_each_once(settings: Settings, payments: int) -> None:
    """Compare every side, and the payments that were answered with those that are there.

    Raises CodebankError where they differ: what loses or doubles a payment has no figure.
    """
    async with connected(settings.database_url("bank"), role="bench") as connection:
        row = await connection.fetchrow("select count(*), count(distinct idempotency_key) from payment")
    found, keys = row or (0, 0)
    if (found, keys) != (payments, payments):
        raise CodebankError(
            Code.INTERNAL, f"{payments} payments were answered, {found} are there with {keys} keys: no figures"
        )
    if not (await prove_once(settings)).agrees:
        raise CodebankError(Code.INTERNAL, "the sides do not agree: no figures")


def figure_of(contender: Contender, measured: Sequence[Measured]) -> Figure:
    """Give the medians of a contender's turns."""
    rates = [one.turn.per_second for one in measured]
    calls = sorted(call for one in measured for call in one.turn.call_microseconds)

    def each(spent: Callable[[Measured], int]) -> int:
        return round(statistics.median(spent(one) / max(1, one.turn.items) for one in measured))

    return Figure(
        contender.name,
        contender.callers,
        round(statistics.median(rates)),
        min(rates),
        max(rates),
        milliseconds(calls, 50),
        milliseconds(calls, 99),
        each(lambda one: one.server_microseconds),
        each(lambda one: one.postgres_microseconds),
        each(lambda one: one.turn.load_microseconds),
    )


def milliseconds(calls: Sequence[int], percent: int) -> Any:
    """Give a percentile of sorted microseconds, in milliseconds."""
    return round(percentile(calls, percent) / 1000, 2)


def _ratios(
    scenario: Scenario, measured: Mapping[tuple[str, int], Sequence[Measured]]
) -> Iterator[tuple[str, Sequence[Any]]]:
    for name, (mine, against) in scenario.ratios.items():
        yield name, rate_ratios(measured[mine], measured[against])


def rate_ratios(mine: Sequence[Measured], against: Sequence[Measured]) -> Sequence[Any]:
    """Give the ratios of the rates of two contenders, round by round, sorted."""
    pairs = zip(mine, against, strict=True)
    return sorted(left.turn.per_second / max(1, right.turn.per_second) for left, right in pairs)


def table_of(result: Result) -> str:
    """Write a run as a table."""
    lines = [
        f"{result.rig}; {result.rounds} alternating rounds of {result.seconds} s, medians (least–most)",
        "",
        f"{'contender':<12} {'callers':>7} {'per second':>10} {'least–most':>15} {'p50 ms':>7} {'p99 ms':>7}"
        f" {'server µs':>9} {'postgres µs':>11} {'load µs':>7}",
    ]
    for one in result.figures:
        spread = f"{one.requests_per_second_min}–{one.requests_per_second_max}"
        lines.append(
            f"{one.name:<12} {one.callers:>7} {one.requests_per_second:>10} {spread:>15} {one.p50_ms:>7}"
            f" {one.p99_ms:>7} {one.server_cpu_us:>9} {one.postgres_cpu_us:>11} {one.load_cpu_us:>7}"
        )
    lines.append("")
    for name, each in result.ratios.items():
        lines.append(f"{name:<22} {statistics.median(each):.2f} ({each[0]:.2f}–{each[-1]:.2f})")
    return "\n".join([*lines, "", f"proof after {result.payments} payments: all sides agree"])
