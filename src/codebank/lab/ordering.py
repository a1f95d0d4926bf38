"""`codebank bench order`: the whole path, from `POST /api/orders` to the paid answer, and what an order costs by role.

A system of its own (`codebank up`, fsync on) is held to one and a half processors where this machine has control groups
to hold it by; the load runs outside, so that what it takes is not taken from the system. What an order costs is read
from the kernel's clocks, from before the first order until its line is on the statement: work put off is paid for too.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from codebank.audit.proof.prove import prove_once
from codebank.errors import Code, CodebankError
from codebank.lab.buyers import Bought, buy_for_a_while
from codebank.lab.cage import caged
from codebank.lab.percentiles import percentile
from codebank.lab.rig import describe_machine
from codebank.lab.spending import resident_kilobytes, spent_below
from codebank.lab.system import own_environment, running, until_ready
from codebank.operate.cards import issue_card
from codebank.runtime.postgres.pool import connect
from codebank.settings import READER_ROLE, Settings
from codebank.wire import new_id

#: What the system may use.
PROCESSORS_PERCENT: Final = 150
_CARDS: Final = 64
_LIMIT_MINOR: Final = 90_000_000_000
_PRODUCTS: Final = ("cafe-especial", "caneca-esmaltada", "caderno-pautado")
_WARM_UP_SECONDS: Final = 1
_ARRIVAL_SECONDS: Final = 60

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class OrderFigure:
    """What one number of connections reached."""

    connections: int
    orders: int
    #: Answers that were not a paid order.
    failed: int
    orders_per_second: int
    p50_microseconds: int
    p99_microseconds: int
    #: Role, or `postgres` and the database → processor time of one order.
    order_microseconds: Mapping[str, int]
    #: What the load itself took for one order, outside.
    load_microseconds: int
    resident_kilobytes: Mapping[str, int]

    def document(self) -> dict[str, Any]:
        """Show the figure as programs read it."""
        return {
            "connections": self.connections,
            "orders": self.orders,
            "failed": self.failed,
            "orders_per_second": self.orders_per_second,
            "p50_ms": round(self.p50_microseconds / 1000, 1),
            "p99_ms": round(self.p99_microseconds / 1000, 1),
            "order_cpu_us": {**self.order_microseconds, "all": sum(self.order_microseconds.values())},
            "load_cpu_us": self.load_microseconds,
            "resident_kb": {**self.resident_kilobytes, "all": sum(self.resident_kilobytes.values())},
        }


@dataclass(frozen=True, slots=True)
class OrderResult:
    """A whole run."""

    figures: Sequence[OrderFigure]
    rig: str
    seconds: int
    #: Whether the system was held to its share of the processors.
    is_held: bool

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "seconds": self.seconds,
            "processors_percent": PROCESSORS_PERCENT if self.is_held else None,
            "figures": [figure.document() for figure in self.figures],
        }


def bench_orders(connections: Sequence[int], seconds: int, tell: Tell) -> OrderResult:
    """Measure each number of connections on a system of its own, then prove that every side agrees. Works on Linux.

    Raises CodebankError, and so gives no figure, where a side does not agree or a paid answer is not one paid order.
    """
    folder = Path(tempfile.mkdtemp(prefix="codebank-bench-"))
    folder.chmod(0o711)
    environment = own_environment(folder / "state")
    settings = Settings.load(environment)
    try:
        with caged(PROCESSORS_PERCENT) as cage:
            if cage.folder is None:
                tell("the system is not held to a share of the processors: no control group can be made here")
            tell("starting the system")
            with (
                running(cage.command([sys.executable, "-m", "codebank", "up"]), environment, folder) as system,
                ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load,
            ):
                asyncio.run(until_ready(settings, system, folder))
                bodies = _bodies(settings, tell)

                def buy(count: int, length_seconds: int) -> Bought:
                    port, prefix = settings.checkout_port, new_id().hex[-12:]
                    return load.submit(buy_for_a_while, port, bodies, prefix, count, length_seconds).result()

                figures = asyncio.run(_measure(settings, system.pid, connections, seconds, buy, tell))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return OrderResult(figures, describe_machine(), seconds, cage.folder is not None)


def _bodies(settings: Settings, tell: Tell) -> list[bytes]:
    """Issue cards, each on an account of its own, and write a request of each."""
    tell(f"issuing {_CARDS} cards")
    bodies = []
    for number in range(_CARDS):
        issued = issue_card(settings, "", f"Bench {number}", _LIMIT_MINOR)
        card = {"number": issued["number"], "cvv": issued["cvv"]}
        card |= {name: issued["card"][name] for name in ("expiry_month", "expiry_year")}
        items = [{"product": _PRODUCTS[number % len(_PRODUCTS)], "quantity": 1}]
        bodies.append(msgspec.json.encode({"items": items, "card": card}))
    return bodies


@dataclass(frozen=True, slots=True)
class BenchSides:
    """What the bench looks at beside the load, by sessions of its own whose time is not counted."""

    checkout: asyncpg.Connection
    statement: asyncpg.Connection

    @property
    def pids(self) -> tuple[int, int]:
        """The server's processes of these sessions."""
        return self.checkout.get_server_pid(), self.statement.get_server_pid()

    async def until_arrived(self, lines: int) -> None:
        """Wait until so many lines are on the statement."""
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        while (found := await self.statement.fetchval("select count(*) from line")) < lines:
            if time.monotonic() > deadline:
                raise CodebankError(Code.UNAVAILABLE, f"{lines - found} payments never reached the statement")
            await asyncio.sleep(0.05)

    async def check(self, paid: Sequence[str], failed: int) -> None:
        """Check that what was answered as paid is paid, once, and nothing else is but what got another answer."""
        rows = await self.checkout.fetch("select order_id::text from orders where status = 'paid'")
        orders = {row["order_id"] for row in rows}
        if len(paid) != len(set(paid)) or not orders >= set(paid) or len(orders) > len(paid) + failed:
            raise CodebankError(
                Code.INTERNAL,
                f"{len(paid)} answers said paid, of {len(set(paid))} orders; {len(orders)} orders are paid",
                hint="there is no figure where something was lost or doubled",
            )


@contextlib.asynccontextmanager
async def _open_sides(settings: Settings) -> AsyncIterator[BenchSides]:
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for database in ("checkout", "statement"):
            opened.append(await connect(settings.database_url(database, READER_ROLE), role="bench"))
            stack.push_async_callback(opened[-1].close)
        yield BenchSides(*opened)


async def _measure(
    settings: Settings,
    pid: int,
    connections: Sequence[int],
    seconds: int,
    buy: Callable[[int, int], Bought],
    tell: Tell,
) -> list[OrderFigure]:
    figures: list[OrderFigure] = []
    async with _open_sides(settings) as sides:
        warm = await asyncio.to_thread(buy, max(connections), _WARM_UP_SECONDS)
        paid, failed = list(warm.paid), warm.failed
        await sides.until_arrived(len(paid))
        for count in connections:
            before = spent_below(pid, *sides.pids)
            bought = await asyncio.to_thread(buy, count, seconds)
            paid += bought.paid
            failed += bought.failed
            await sides.until_arrived(len(paid))
            spent = spent_below(pid, *sides.pids).since(before)
            figures.append(_figure(count, bought, spent, resident_kilobytes(pid)))
            tell(f"{count:>4} connections  {figures[-1].orders_per_second:>5} orders a second")
        await sides.check(paid, failed)
    tell("proving")
    proof = await prove_once(settings)
    if not proof.agrees:
        wrong = ", ".join(check.name for check in proof.checks if not check.holds)
        raise CodebankError(Code.INTERNAL, f"the sides do not agree: {wrong}")
    return figures


def _figure(count: int, bought: Bought, spent: Mapping[str, int], resident: Mapping[str, int]) -> OrderFigure:
    orders, times = len(bought.paid), bought.microseconds
    if not orders:
        raise CodebankError(Code.UNAVAILABLE, f"no order was paid, {bought.failed} were answered otherwise")
    return OrderFigure(
        connections=count,
        orders=orders,
        failed=bought.failed,
        orders_per_second=orders * 1_000_000 // bought.elapsed_microseconds,
        p50_microseconds=percentile(times, 50),
        p99_microseconds=percentile(times, 99),
        order_microseconds={name: spent[name] // orders for name in sorted(spent) if spent[name] // orders},
        load_microseconds=bought.own_microseconds // orders,
        resident_kilobytes=dict(sorted(resident.items())),
    )


def table_of(result: OrderResult) -> str:
    """Write a run as a table: the figures, and below them what an order costs and what is resident, by role."""
    share = f"held to {PROCESSORS_PERCENT} % of a processor" if result.is_held else "NOT held to a share of processors"
    lines = [f"{result.rig}; {share}; {result.seconds} s each; every side agrees, each paid answer is one order", ""]
    lines.append(f"{'connections':<20}" + "".join(f"{figure.connections:>9}" for figure in result.figures))
    for name in ("orders_per_second", "failed", "p50_ms", "p99_ms", "load_cpu_us"):
        lines.append(f"{name:<20}" + "".join(f"{figure.document()[name]:>9}" for figure in result.figures))
    for title, field in (("processor µs of an order", "order_cpu_us"), ("resident kB", "resident_kb")):
        lines += ["", title]
        tables = [figure.document()[field] for figure in result.figures]
        for name in dict.fromkeys(name for table in tables for name in table if name != "all"):
            lines.append(f"{name:<20}" + "".join(f"{table.get(name, 0):>9}" for table in tables))
        lines.append(f"{'all':<20}" + "".join(f"{table['all']:>9}" for table in tables))
    return "\n".join(lines)
