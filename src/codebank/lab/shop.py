"""A whole system of a bench's own, in whose shop is bought: what `bench order` and `bench memory` measure."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from codebank.audit.proof.prove import prove_once
from codebank.errors import Code, CodebankError
from codebank.lab.buyers import Bought, buy_for_a_while
from codebank.lab.system import own_environment, running, until_ready
from codebank.operate.cards import issue_card
from codebank.runtime.children import command_of
from codebank.runtime.postgres.pool import connect
from codebank.settings import READER_ROLE, Settings
from codebank.wire import new_id

_CARDS: Final = 64
_LIMIT_MINOR: Final = 90_000_000_000
_PRODUCTS: Final = ("cafe-especial", "caneca-esmaltada", "caderno-pautado")
_ARRIVAL_SECONDS: Final = 60

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BenchSides:
    """What a bench looks at beside the load, by sessions of its own whose time is not counted."""

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


@dataclass(frozen=True, slots=True)
class BenchShop:
    """A system that runs, and a load in a process of its own that buys from it."""

    settings: Settings
    #: The process above all of the system's.
    pid: int
    _load: ProcessPoolExecutor
    _bodies: Sequence[bytes]

    def buy(self, connections: int, seconds: int) -> Bought:
        """Buy over so many connections for so long."""
        port, prefix = self.settings.checkout_port, new_id().hex[-12:]
        return self._load.submit(buy_for_a_while, port, self._bodies, prefix, connections, seconds).result()

    @contextlib.asynccontextmanager
    async def sides(self) -> AsyncIterator[BenchSides]:
        """Give what is looked at beside the load."""
        async with contextlib.AsyncExitStack() as stack:
            opened = []
            for database in ("checkout", "statement"):
                opened.append(await connect(self.settings.database_url(database, READER_ROLE), role="bench"))
                stack.push_async_callback(opened[-1].close)
            yield BenchSides(*opened)

    async def prove(self, tell: Tell) -> None:
        """Prove that every side agrees. Raises CodebankError where one does not."""
        tell("proving")
        proof = await prove_once(self.settings)
        if not proof.agrees:
            wrong = ", ".join(check.name for check in proof.checks if not check.holds)
            raise CodebankError(Code.INTERNAL, f"the sides do not agree: {wrong}")


@contextlib.contextmanager
def open_shop(command: Callable[[Sequence[str]], Sequence[str]], tell: Tell) -> Iterator[BenchShop]:
    """Start a system, fsync on, as `command` would have its command line, and give its shop."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-bench-"))
    folder.chmod(0o711)
    environment = own_environment(folder / "state")
    settings = Settings.load(environment)
    try:
        tell("starting the system")
        with (
            running(command(command_of("codebank", "up")), environment, folder) as system,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as load,
        ):
            asyncio.run(until_ready(settings, system, folder))
            yield BenchShop(settings, system.pid, load, _bodies(settings, tell))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
