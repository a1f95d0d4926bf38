"""What the checkout's tests share: a shop on fresh databases, a browser without scripts, a bank that can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from codebank.bank.test_cards import TEST_CARDS
from codebank.checkout.app import open_shop as running_shop
from codebank.checkout.store.goods import seed_products
from codebank.roles import METRICS
from codebank.runtime.postgres.pool import connect
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc

APPROVED = "4000001000000018"
LIMIT_EXCEEDED = "4000001000000190"
UNAVAILABLE_ONCE = "4000001000000315"
TIMEOUT_AFTER_COMMIT = "4000001000000323"
CVV = "123"


#: Makes a browser that nobody has used yet.
Browsers = Callable[[], httpx.AsyncClient]


def card_body(number: str = APPROVED, **changes: Any) -> dict[str, Any]:
    return {"number": number, "expiry_month": 12, "expiry_year": 2034, "cvv": CVV, **changes}


def order_body(number: str = APPROVED, **changes: Any) -> dict[str, Any]:
    return {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card_body(number), **changes}


@contextlib.asynccontextmanager
async def open_shop(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[Browsers]:
    """Run a shop; give a maker of browsers, each with cookies of its own."""
    connection = await connect(settings.database_url("checkout"))
    await seed_products(connection)
    await connection.close()
    clients: list[httpx.AsyncClient] = []
    async with running_shop(settings, telemetry or Telemetry(METRICS), TEST_CARDS) as app:

        def browser() -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            clients.append(httpx.AsyncClient(transport=transport, base_url="http://shop"))
            return clients[-1]

        yield browser
        for client in clients:
            await client.aclose()


async def fill_basket(browser: httpx.AsyncClient, product: str = "cafe-especial", quantity: int = 1) -> None:
    answer = await browser.post("/basket", data={"product": product, "action": "add", "quantity": quantity})
    assert answer.status_code == 303


async def payment_form(browser: httpx.AsyncClient, number: str = APPROVED, cvv: str = CVV) -> dict[str, str]:
    """Open the payment page and fill it in as a person without scripts would."""
    page = await browser.get("/payment")
    assert page.status_code == 200
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    wanted = {name: hidden[name] for name in ("attempt", "total_minor")}
    return {**wanted, "number": number, "expiry": "12/34", "cvv": cvv, "parcelas": "1"}


async def orders_of(settings: Settings) -> list[dict[str, Any]]:
    connection = await connect(settings.database_url("checkout"))
    rows = await connection.fetch("select * from orders order by created_at")
    await connection.close()
    return [dict(row) for row in rows]


async def payments_of(settings: Settings) -> list[dict[str, Any]]:
    connection = await connect(settings.database_url("bank"))
    rows = await connection.fetch("select * from payment order by created_at")
    await connection.close()
    return [dict(row) for row in rows]


async def until_ended(settings: Settings, seconds: int = 9) -> dict[str, Any]:
    """Wait until the only order has ended."""
    async with asyncio.timeout(seconds):
        while True:
            order = (await orders_of(settings))[0]
            if order["status"] in ("paid", "declined", "cancelled"):
                return order
            await asyncio.sleep(0.02)


@dataclass
class OddBank(bank_pb2_grpc.BankServicer):
    """A peer that speaks the bank's proto and misbehaves as told."""

    amount_minor: int | None = None
    #: What the first charge is answered with.
    gives_first: grpc.StatusCode | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    #: Answers wait for this; a bank that hangs never sets it.
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    keys: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def Authorize(self, request: pb.AuthorizeRequest, context: Any) -> pb.AuthorizeResponse:
        self.asked.set()
        self.keys.append(request.idempotency_key)
        if self.gives_first is not None and len(self.keys) == 1:
            await context.abort(self.gives_first, "as told")
        await self.may_answer.wait()
        amount = pb.Money(amount_minor=self.amount_minor or request.amount.amount_minor, currency="BRL")
        return pb.AuthorizeResponse(
            payment=pb.Payment(
                payment_id="01900000-0000-7000-8000-0000000000aa", status=pb.PAYMENT_STATUS_APPROVED, amount=amount
            )
        )

    async def GetPayment(self, request: pb.GetPaymentRequest, context: Any) -> pb.GetPaymentResponse:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such payment")
        raise AssertionError

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        self.cancelled.append(request.idempotency_key)
        return pb.CancelResponse(outcome=pb.CancelResponse.OUTCOME_KEY_CLOSED)


def odd_bank(amount_minor: int | None = None, gives_first: grpc.StatusCode | None = None) -> OddBank:
    """Make a bank that misbehaves."""
    return OddBank(amount_minor, gives_first)  # type: ignore[abstract]  # only what the checkout calls is spoken


@contextlib.asynccontextmanager
async def serving(bank: OddBank) -> AsyncIterator[str]:
    """Serve an odd bank and give its address."""
    server = grpc.aio.server()
    bank_pb2_grpc.add_BankServicer_to_server(bank, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
