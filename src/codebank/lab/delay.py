"""`codebank bench flow`: how long after the bank's decision an event is on the log, the statement, its page, the index.

An open loop: calls begin at their time, whether or not earlier ones were answered, as buyers do. It loads the system
that runs, while statement pages of those who pay are open, and asks every side afterwards for the times that it wrote
down by itself. A run that loses or doubles anything has no figure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

import grpc

from codebank.audit.proof.prove import prove_once
from codebank.errors import Code, CodebankError
from codebank.eventlog.choice import open_log
from codebank.events import PAYMENTS_TOPIC
from codebank.lab.arrivals import accounts_there, in_index, on_log, on_pages, on_statement
from codebank.lab.meters import BENCH, ProcessorTime, read_meters
from codebank.lab.pages import open_pages
from codebank.lab.percentiles import percentile
from codebank.operate.cards import issue_card
from codebank.runtime.grpc.tls import Identity, open_channel
from codebank.runtime.postgres.pool import open_pool
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from codebank.wire import new_id, utc_now

_CARDS: Final = 40
_LIMIT_MINOR: Final = 90_000_000_000


@dataclass(frozen=True, slots=True)
class DelayResult:
    """What a run found. Times are milliseconds, sorted."""

    rate_per_second: int
    seconds: int
    sent: int
    failed: int
    #: Statement pages that were open.
    pages: int
    log: str
    #: Stage → how long after the decision each event reached it.
    stages: Mapping[str, Sequence[int]]
    #: Microseconds per payment.
    processor: ProcessorTime

    def percentile(self, stage: str, percent: int) -> int:
        """Give a percentile of a stage's times."""
        return percentile(self.stages[stage], percent)

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rate_per_second": self.rate_per_second,
            "seconds": self.seconds,
            "sent": self.sent,
            "failed": self.failed,
            "pages": self.pages,
            "log": self.log,
            "processor_microseconds_per_payment": asdict(self.processor),
            "stages": {
                stage: {"events": len(times)} | {f"p{n}_milliseconds": self.percentile(stage, n) for n in (50, 99)}
                for stage, times in self.stages.items()
            },
        }


@dataclass
class _Load:
    settings: Settings
    cards: Sequence[Mapping[str, Any]]
    payments: set[str] = field(default_factory=set)
    failed: int = 0

    async def run(self, rate_per_second: int, seconds: int, tell: Callable[[str], None]) -> int:
        """Send calls at their times; gives how many."""
        prefix, calls = new_id().hex[-12:], set()
        metadata = (("authorization", f"Bearer {self.settings.merchant_key}"),)
        async with open_channel(self.settings.bank_target(), Identity.of(self.settings)) as channel:
            bank = bank_pb2_grpc.BankStub(channel)
            began = time.monotonic()
            for number in range(rate_per_second * seconds):
                await asyncio.sleep(max(0, began + number / rate_per_second - time.monotonic()))
                calls.add(asyncio.create_task(self._call(bank, metadata, f"flow-{prefix}-{number}")))
                if number % (rate_per_second * 5) == 0:
                    tell(f"{number} of {rate_per_second * seconds} sent")
            await asyncio.gather(*calls)
        return len(calls)

    async def _call(self, bank: Any, metadata: Any, key: str) -> None:
        card = random.choice(self.cards)  # noqa: S311 (a load, not a secret)
        request = pb.AuthorizeRequest(
            card_data=pb.CardData(
                number=card["number"],
                cvv=card["cvv"],
                expiry_year=card["card"]["expiry_year"],
                expiry_month=card["card"]["expiry_month"],
            ),
            amount=pb.Money(amount_minor=100, currency="BRL"),
            description="Bench",
            idempotency_key=key,
        )
        try:
            answer = await bank.Authorize(request, metadata=metadata, timeout=10)
            self.payments.add(answer.payment.payment_id)
        except grpc.aio.AioRpcError:
            self.failed += 1


@dataclass(frozen=True, slots=True)
class Run:
    """What is measured: so many payments a second, for so long, with so many statement pages open."""

    rate_per_second: int
    seconds: int
    pages: int


async def bench_delay(
    settings: Settings, health_ports: Mapping[str, int], run: Run, tell: Callable[[str], None]
) -> DelayResult:
    """Load the running system, wait until everything has arrived, read the times, and prove that all sides agree.

    Raises CodebankError where the bank does not answer, or what was sent does not arrive, or arrives twice.
    """
    tell(f"issuing {_CARDS} cards")
    cards = [await asyncio.to_thread(issue_card, settings, "", "Bench", _LIMIT_MINOR) for _ in range(_CARDS)]
    account_ids = [UUID(card["card"]["account_id"]) for card in cards[: run.pages]]
    load, began_at = _Load(settings, cards), utc_now()
    statement = await open_pool(settings.database_url("statement"), max_size=2, role=BENCH)
    try:
        async with open_log(settings, BENCH) as log:
            before = await log.ends(PAYMENTS_TOPIC, settled=True)
            await accounts_there(statement, account_ids)
            tell(f"opening {len(account_ids)} pages")
            async with open_pages(settings, statement, account_ids) as pages:
                earlier = await read_meters(settings, health_ports, statement)
                sent = await load.run(run.rate_per_second, run.seconds, tell)
                tell("waiting until everything has arrived")
                lines = await on_statement(statement, load.payments)
                spent = (await read_meters(settings, health_ports, statement)).since(earlier)
                found = await on_log(log, load.payments, before)
                shown = await on_pages(pages, found.values())
            stages = {
                "log": [one.late_milliseconds for one in found.values()],
                "line": lines,
                **({"page": shown} if pages else {}),
            }
        if settings.elasticsearch:
            stages["index"] = await in_index(settings, load.payments, began_at)
    finally:
        await statement.close()
    tell("proving")
    if not (await prove_once(settings)).agrees:
        raise CodebankError(Code.INTERNAL, "the sides do not agree", hint="`codebank proof` tells where")
    return DelayResult(
        run.rate_per_second,
        run.seconds,
        sent,
        load.failed,
        len(account_ids),
        "kafka" if settings.kafka else "embedded",
        {stage: sorted(times) for stage, times in stages.items()},
        spent.per(len(load.payments)),
    )


def table_of(result: DelayResult) -> str:
    """Write a run as tables."""
    lines = [
        f"{result.sent} payments at {result.rate_per_second}/s on the {result.log} log, {result.failed} failed,"
        f" {result.pages} statement pages open",
        "",
        f"{'after the decision':<20} {'events':>7} {'p50 ms':>7} {'p99 ms':>7}",
    ]
    for stage, times in result.stages.items():
        row = f"{result.percentile(stage, 50):>7} {result.percentile(stage, 99):>7}"
        lines.append(f"{stage:<20} {len(times):>7} {row}")
    lines += ["", f"{'µs per payment':<20} {'itself':>7} {'its PostgreSQL':>15}"]
    roles, postgres = result.processor.roles, result.processor.postgres
    for name in sorted({*roles, *postgres}, key=lambda name: -roles.get(name, 0) - postgres.get(name, 0)):
        lines.append(f"{name:<20} {roles.get(name, ''):>7} {postgres.get(name, ''):>15}")
    return "\n".join([*lines, "", "proof: all sides agree"])
