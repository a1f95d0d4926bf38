"""`codebank bench order`: the whole path, from `POST /api/orders` to the paid answer, and what an order costs by role.

A system of its own (`codebank up`, fsync on) is held to one and a half processors where this machine has control groups
to hold it by; the load runs outside, so that what it takes is not taken from the system. What an order costs is read
from the kernel's clocks, from before the first order until its line is on the statement: work put off is paid for too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from codebank.errors import Code, CodebankError
from codebank.lab.buyers import Bought
from codebank.lab.cage import caged
from codebank.lab.percentiles import percentile
from codebank.lab.rig import describe_machine
from codebank.lab.shop import BenchShop, open_shop
from codebank.lab.spending import resident_kilobytes, spent_below

#: What the system may use.
PROCESSORS_PERCENT: Final = 150
_WARM_UP_SECONDS: Final = 1

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
    with caged(PROCESSORS_PERCENT) as cage:
        if cage.folder is None:
            tell("the system is not held to a share of the processors: no control group can be made here")
        with open_shop(cage.command, tell) as shop:
            figures = asyncio.run(_measure(shop, connections, seconds, tell))
    return OrderResult(figures, describe_machine(), seconds, cage.folder is not None)


async def _measure(shop: BenchShop, connections: Sequence[int], seconds: int, tell: Tell) -> list[OrderFigure]:
    figures: list[OrderFigure] = []
    async with shop.sides() as sides:
        warm = await asyncio.to_thread(shop.buy, max(connections), _WARM_UP_SECONDS)
        paid, failed = list(warm.paid), warm.failed
        await sides.until_arrived(len(paid))
        for count in connections:
            before = spent_below(shop.pid, *sides.pids)
            bought = await asyncio.to_thread(shop.buy, count, seconds)
            paid += bought.paid
            failed += bought.failed
            await sides.until_arrived(len(paid))
            spent = spent_below(shop.pid, *sides.pids).since(before)
            figures.append(_figure(count, bought, spent, resident_kilobytes(shop.pid)))
            tell(f"{count:>4} connections  {figures[-1].orders_per_second:>5} orders a second")
        await sides.check(paid, failed)
    await shop.prove(tell)
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
