"""`codebank bench flow`: how long after the bank's decision an event is on the log, on the statement, in the index.

An open loop: calls begin at their time, whether or not earlier ones were answered, as buyers do. It loads the system
that runs, and asks every side afterwards for the times that it wrote down by itself.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg
import grpc

from codebank.errors import Code, CodebankError
from codebank.eventlog.choice import open_log
from codebank.eventlog.log import EventLog
from codebank.events import PAYMENTS_TOPIC, PaymentEvent
from codebank.operate.cards import issue_card
from codebank.runtime.grpc.tls import Identity, open_channel
from codebank.runtime.postgres.pool import open_pool
from codebank.search.index import SearchIndex
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from codebank.wire import MalformedEvent, decode_event, new_id, utc_now

_CARDS: Final = 40
_LIMIT_MINOR: Final = 90_000_000_000
_PATIENCE_SECONDS: Final = 60
_SCAN: Final = 2000


@dataclass(frozen=True, slots=True)
class DelayResult:
    """What a run found. Times are milliseconds, sorted."""

    rate_per_second: int
    seconds: int
    sent: int
    failed: int
    log: str
    #: Stage → how long after the decision each event reached it.
    stages: Mapping[str, Sequence[int]]

    def percentile(self, stage: str, percent: int) -> int:
        """Give a percentile of a stage's times."""
        times = self.stages[stage]
        return times[min(len(times) - 1, len(times) * percent // 100)] if times else 0

    def document(self) -> dict[str, Any]:
        """Show the run as programs read it."""
        return {
            "rate_per_second": self.rate_per_second,
            "seconds": self.seconds,
            "sent": self.sent,
            "failed": self.failed,
            "log": self.log,
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


async def bench_delay(
    settings: Settings, rate_per_second: int, seconds: int, tell: Callable[[str], None]
) -> DelayResult:
    """Load the running system, wait until everything has arrived, and read the times.

    Raises CodebankError where the bank does not answer, or what was sent does not arrive.
    """
    tell(f"issuing {_CARDS} cards")
    cards = [await asyncio.to_thread(issue_card, settings, "", "Bench", _LIMIT_MINOR) for _ in range(_CARDS)]
    load, began_at = _Load(settings, cards), utc_now()
    sent = await load.run(rate_per_second, seconds, tell)
    tell("waiting until everything has arrived")
    statement = await open_pool(settings.database_url("statement"), max_size=2, role="bench")
    try:
        async with open_log(settings, "bench") as log:
            stages = {
                "log": await _on_log(log, load.payments),
                "line": await _on_statement(statement, load.payments),
            }
        if settings.elasticsearch:
            stages["index"] = await _in_index(settings, load.payments, began_at)
    finally:
        await statement.close()
    return DelayResult(
        rate_per_second,
        seconds,
        sent,
        load.failed,
        "kafka" if settings.kafka else "embedded",
        {stage: sorted(times) for stage, times in stages.items()},
    )


async def _on_statement(pool: asyncpg.Pool, payments: set[str]) -> list[int]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        rows = await pool.fetch(
            "select (extract(epoch from projected_at - occurred_at) * 1000)::int as late from line"
            " where payment_id = any($1::uuid[])",
            list(payments),
        )
        if len(rows) == len(payments):
            return [row["late"] for row in rows]
        _check(deadline, "statement", len(rows), payments)
        await asyncio.sleep(0.1)


async def _on_log(log: EventLog, payments: set[str]) -> list[int]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    found: dict[str, int] = {}
    positions: dict[int, int] = {}
    while len(found) < len(payments):
        for partition, end in (await log.ends(PAYMENTS_TOPIC, settled=True)).items():
            while (position := positions.get(partition, 0)) < end:
                records = await log.scan(PAYMENTS_TOPIC, partition, position, _SCAN)
                if not records:
                    break
                positions[partition] = records[-1].offset + 1
                for record in records:
                    try:
                        event = decode_event(record.headers, record.value)
                    except MalformedEvent:
                        continue
                    if isinstance(event, PaymentEvent) and str(event.payment.payment_id) in payments:
                        found[str(event.payment.payment_id)] = _milliseconds(event.occurred_at, record.appended_at)
        _check(deadline, "log", len(found), payments)
    return list(found.values())


async def _in_index(settings: Settings, payments: set[str], began_at: datetime) -> list[int]:
    index = SearchIndex.of(settings)
    assert index is not None
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        found = {payment: late async for payment, late in index.delays(began_at) if payment in payments}
        if len(found) == len(payments):
            return list(found.values())
        _check(deadline, "search index", len(found), payments)
        await asyncio.sleep(0.2)


def _milliseconds(earlier: datetime, later: datetime) -> int:
    # Kafka's own times have no fraction of a millisecond, so one may seem to come before the other.
    return max(0, round((later - earlier).total_seconds() * 1000))


def _check(deadline: float, side: str, found: int, payments: set[str]) -> None:
    if time.monotonic() > deadline:
        raise CodebankError(Code.UNAVAILABLE, f"{len(payments) - found} of {len(payments)} never reached the {side}")


def table_of(result: DelayResult) -> str:
    """Write a run as a table."""
    lines = [
        f"{result.sent} payments at {result.rate_per_second}/s on the {result.log} log, {result.failed} failed",
        "",
        f"{'after the decision':<20} {'events':>7} {'p50 ms':>7} {'p99 ms':>7}",
    ]
    for stage, times in result.stages.items():
        row = f"{result.percentile(stage, 50):>7} {result.percentile(stage, 99):>7}"
        lines.append(f"{stage:<20} {len(times):>7} {row}")
    return "\n".join(lines)
