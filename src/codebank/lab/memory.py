"""`codebank bench memory`: what every role holds in memory while very many orders are paid, one turn after the other.

What grows with each payment ends in a killed process some week; nobody sees it in a load of seconds.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from codebank.lab.rig import describe_machine
from codebank.lab.shop import BenchShop, Tell, open_shop
from codebank.lab.spending import resident_kilobytes

_CONNECTIONS: Final = 32
#: Caches fill and pools open at the beginning; growth is looked for after this share of the orders.
_WARM_PERCENT: Final = 20


@dataclass(frozen=True, slots=True)
class Holding:
    """What every part held after so many orders."""

    orders: int
    #: Role, or `postgres` and the database.
    resident_kilobytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MemoryResult:
    """A whole run, all of whose orders were found, each once."""

    curve: Sequence[Holding]
    rig: str

    def growth(self) -> Mapping[str, int]:
        """Give what each part came to hold more per million orders, in kilobytes, by a line through its curve."""
        warm = [held for held in self.curve if held.orders * 100 >= self.curve[-1].orders * _WARM_PERCENT]
        if len(warm) < 2:
            return {}
        at = [held.orders for held in warm]
        names = sorted({name for held in warm for name in held.resident_kilobytes})
        held_by = {name: [held.resident_kilobytes.get(name, 0) for held in warm] for name in names}
        return {name: round(statistics.linear_regression(at, each).slope * 1_000_000) for name, each in held_by.items()}

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rig": self.rig,
            "orders": self.curve[-1].orders,
            "proof_agrees": True,
            "curve": [{"orders": held.orders, "resident_kb": dict(held.resident_kilobytes)} for held in self.curve],
            "growth_kb_per_million": dict(self.growth()),
        }


def bench_memory(orders: int, turn_seconds: int, tell: Tell) -> MemoryResult:
    """Buy so many orders on a system of its own, and look after each turn. Works on Linux.

    Raises CodebankError, and so gives no figure, where a side does not agree or a paid answer is not one paid order.
    """
    with open_shop(list, tell) as shop:
        curve = asyncio.run(_curve(shop, orders, turn_seconds, tell))
    return MemoryResult(curve, describe_machine())


async def _curve(shop: BenchShop, orders: int, turn_seconds: int, tell: Tell) -> list[Holding]:
    curve: list[Holding] = []
    paid: list[str] = []
    failed = 0
    async with shop.sides() as sides:
        while len(paid) < orders:
            bought = await asyncio.to_thread(shop.buy, _CONNECTIONS, turn_seconds)
            paid += bought.paid
            failed += bought.failed
            await sides.until_arrived(len(paid))
            held = resident_kilobytes(shop.pid)
            curve.append(Holding(len(paid), dict(sorted(held.items()))))
            tell(f"{len(paid):>8} of {orders} orders, {held.total() // 1024} MB in all")
        await sides.check(paid, failed)
    await shop.prove(tell)
    return curve


def table_of(result: MemoryResult) -> str:
    """Write a run as a table: at the beginning, on the way and at the end, and what a million orders add."""
    last = len(result.curve) - 1
    shown = [result.curve[number] for number in dict.fromkeys((0, last // 4, last // 2, last * 3 // 4, last))]
    growth = result.growth()
    lines = [f"{result.rig}; resident kB after so many orders; every side agrees, each paid answer is one order", ""]
    lines.append(f"{'orders':<20}" + "".join(f"{held.orders:>10}" for held in shown) + f"{'per million':>14}")
    for name in shown[-1].resident_kilobytes:
        held = "".join(f"{one.resident_kilobytes.get(name, 0):>10}" for one in shown)
        lines.append(f"{name:<20}{held}{growth.get(name, 0):>+14}")
    return "\n".join(lines)
