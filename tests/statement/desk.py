"""What the statement's tests share: events by hand, a log to put them on, a cardholder who is signed in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import httpx
from msgspec.structs import replace

from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.log import NewRecord
from codebank.events import (
    ACCOUNT_OPENED,
    PAYMENT_EVENT_TYPES,
    PAYMENTS_TOPIC,
    AccountEvent,
    AccountState,
    AccountStatus,
    DeclineCode,
    Event,
    PaymentEvent,
    PaymentState,
    PaymentStatus,
)
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import connect, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.statement.app import open_statement
from codebank.statement.projector import Projector
from codebank.statement.sign_in import password_hasher
from codebank.statement.store.people import add_cardholder
from codebank.wire import encode_event

ANA = UUID(int=0xA)
BIA = UUID(int=0xB)
START = datetime(2026, 11, 20, 15, tzinfo=UTC)
LIMIT_MINOR = 100_000
PASSWORD = "correct horse"
PASSWORD_HASH = password_hasher().hash(PASSWORD)


@dataclass
class Story:
    """The events of one account, in order."""

    account_id: UUID = ANA
    events: list[Event] = field(default_factory=list)
    used_minor: int = 0

    def opened(self) -> Story:
        self._add(AccountEvent, type=ACCOUNT_OPENED)
        return self

    def paid(self, amount_minor: int, **changes: object) -> Story:
        self.used_minor += amount_minor
        return self._payment(PaymentStatus.APPROVED, amount_minor, **changes)

    def declined(self, amount_minor: int, **changes: object) -> Story:
        refusal: dict[str, object] = {"decline_code": DeclineCode.LIMIT_EXCEEDED}
        return self._payment(PaymentStatus.DECLINED, amount_minor, **(refusal | changes))

    def returned(self, number: int, amount_minor: int) -> Story:
        self.used_minor -= amount_minor
        return self._payment(
            PaymentStatus.REFUNDED, amount_minor, payment_id=payment_id(self.account_id, number),
            refunded_minor=amount_minor,
        )  # fmt: skip

    def told(self, event_type: str, status: str, amount_minor: int = 100, **changes: object) -> Story:
        """Tell of a payment as a newer bank might."""
        return self._payment(status, amount_minor, event_type=event_type, **changes)

    def account_told(self, event_type: str, **state: object) -> Story:
        """Tell of the account as a newer bank might."""
        self._add(AccountEvent, type=event_type)
        self.events[-1] = replace(self.events[-1], account=replace(self.events[-1].account, **state))
        return self

    def _payment(self, status: str, amount_minor: int, *, event_type: object = "", **changes: object) -> Story:
        number = len(self.events) + 1
        at = START + timedelta(minutes=number)
        values: dict[str, object] = {
            "payment_id": payment_id(self.account_id, number), "status": status, "decline_code": None,
            "amount_minor": amount_minor, "currency": "BRL", "refunded_minor": 0, "parcelas": 1,
            "merchant_id": UUID(int=99), "merchant_name": "Padaria São João", "merchant_category": "5462",
            "description": "Pão e café", "card_masked": "•••• 0018", "card_brand": "visa", "card_id": UUID(int=5),
            "created_at": at, "updated_at": at, "version": 2 if status == PaymentStatus.REFUNDED else 1,
            "captured_minor": 0 if status == PaymentStatus.DECLINED else amount_minor,
        }  # fmt: skip
        payment = PaymentState(**(values | changes))  # type: ignore[arg-type]
        self._add(PaymentEvent, type=event_type or PAYMENT_EVENT_TYPES[status], payment=payment)
        return self

    def _add(self, shape: type[Event], **more: object) -> None:
        number = len(self.events) + 1
        state = AccountState(
            holder_name="Ana Souza", status=AccountStatus.OPEN, currency="BRL", limit_minor=LIMIT_MINOR,
            used_minor=self.used_minor,
        )  # fmt: skip
        values: dict[str, object] = {
            "event_id": UUID(int=(self.account_id.int << 32) + number), "account_id": self.account_id,
            "sequence": number, "occurred_at": START + timedelta(minutes=number), "account": state,
        }  # fmt: skip
        event = shape(**(values | more))  # type: ignore[arg-type]
        self.events.append(event)


def payment_id(account_id: UUID, number: int) -> UUID:
    return UUID(int=(account_id.int << 64) + number)


def record_of(event: Event) -> NewRecord:
    value, headers = encode_event(event)
    return NewRecord(str(event.account_id).encode(), value, headers)


@dataclass
class Desk:
    """A log, a statement database, and a projector between them."""

    settings: Settings
    log: LocalLog
    pool: asyncpg.Pool
    telemetry: Telemetry = field(default_factory=lambda: Telemetry(METRICS))

    async def append(self, *records: NewRecord | Event) -> None:
        made = [record if isinstance(record, NewRecord) else record_of(record) for record in records]
        await (await self.log.open_writer(PAYMENTS_TOPIC)).append(made)

    def projector(self, member: str = "one", batch_max: int = 500) -> Projector:
        return Projector(self.pool, self.log, self.telemetry, member, batch_max)

    async def project(self, batch_max: int = 500) -> None:
        """Read everything that is on the log."""
        projector = self.projector(batch_max=batch_max)
        reader = await self.log.open_reader(PAYMENTS_TOPIC, "statement", "one", projector._positions)
        try:
            while await self.behind():
                await projector.step(reader)
        finally:
            await reader.close()

    async def behind(self) -> int:
        ends = await self.log.ends(PAYMENTS_TOPIC)
        rows = await self.pool.fetch("select partition, next_offset from position")
        kept = {row["partition"]: row["next_offset"] for row in rows}
        return sum(end - kept.get(partition, 0) for partition, end in ends.items())

    async def lines(self, account_id: UUID = ANA) -> list[tuple[int, str, int]]:
        rows = await self.pool.fetch(
            "select first_sequence, status, amount_minor from line where account_id = $1 order by 1", account_id
        )
        return [tuple(row) for row in rows]


@contextlib.asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    log_pool = await open_pool(settings.database_url("log"))
    pool = await open_pool(settings.database_url("statement"))
    try:
        yield Desk(settings, LocalLog(log_pool, settings.database_url("log"), 1), pool)
    finally:
        await pool.close()
        await log_pool.close()


async def add_people(settings: Settings) -> None:
    """Let Ana and Bia sign in, each with her own account."""
    connection = await connect(settings.database_url("statement"))
    await add_cardholder(connection, "ana@x.example", "Ana Souza", PASSWORD_HASH, [ANA])
    await add_cardholder(connection, "bia@x.example", "Bia Lima", PASSWORD_HASH, [BIA])
    await connection.close()


@contextlib.asynccontextmanager
async def open_pages(settings: Settings) -> AsyncIterator[Callable[[], httpx.AsyncClient]]:
    """Run the pages; give a maker of browsers."""
    await add_people(settings)
    clients: list[httpx.AsyncClient] = []
    async with open_statement(settings, Telemetry(METRICS)) as (app, _hub):

        def browser() -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            clients.append(httpx.AsyncClient(transport=transport, base_url="http://statement"))
            return clients[-1]

        yield browser
        for client in clients:
            await client.aclose()


async def sign_in(browser: httpx.AsyncClient, email: str = "ana@x.example", password: str = PASSWORD) -> httpx.Response:
    return await browser.post("/sign-in", data={"email": email, "password": password})


async def until(condition: Callable[[], bool], seconds: int = 8) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
