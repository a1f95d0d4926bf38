"""A bank of a later release: whatever it answers, at whichever door, no page breaks and no charged order is lost.

What is understood ends an order as it says. What is not leaves it under way, to be asked again, and past its limit
to be cancelled at the bank by a call whose answer is understood.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import grpc
import httpx
import pytest

from codebank.checkout import resolver
from codebank.machine.postgres import EmbeddedPostgres
from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id
from tests.checkout.shop import (
    APPROVED,
    LIMIT_EXCEEDED,
    fill_basket,
    open_shop,
    order_body,
    payment_form,
    payments_of,
)
from tests.checkout.test_api import fits
from tests.conftest import TestSettings, make_databases, seed, serving_bank, settings_for
from tests.skew.future import Change, FutureBank, future_bank

pytestmark = pytest.mark.anyio

DOORS: Final = ("page", "rest", "resolver")
#: Field 999 of every message, which nobody has today: `ok` as text.
UNKNOWN_FIELD: Final = b"\xba\x3e\x02ok"


@dataclass
class Future:
    """A shop before a bank of the future."""

    settings: TestSettings
    bank: FutureBank
    browsers: Callable[[], httpx.AsyncClient]
    telemetry: Telemetry
    browser: httpx.AsyncClient

    async def buy(self, door: str, number: str) -> str:
        """Buy something at a door and give the order's id. The resolver's door opens where a first answer is lost."""
        if door == "resolver":
            self.bank.changes["Authorize"] = lambda _truth: grpc.StatusCode.UNKNOWN
        await fill_basket(self.browser)
        if door == "page":
            sent = await self.browser.post("/payment", data=await payment_form(self.browser, number))
            assert sent.status_code == 303
            return str(sent.headers["location"].rpartition("/")[2])
        answer = await self.browser.post(
            "/api/orders", json=order_body(number), headers={"idempotency-key": str(new_id())}
        )
        assert answer.status_code in (201, 202)
        assert fits("Order", answer.json())
        order_id = str(answer.json()["id"])
        # Pages show their own basket's orders only.
        await self.write(
            "update orders set basket_id = $2 where order_id = $1", order_id, self.browser.cookies["basket"]
        )
        return order_id

    async def grow_old(self, order_id: str) -> None:
        """Let an order be an hour old, and due."""
        await self.write(
            "update orders set created_at = created_at - interval '1 hour', resolve_at = now() where order_id = $1",
            order_id,
        )

    async def write(self, statement: str, *values: object) -> None:
        """Change the shop's database behind its back."""
        connection = await self.settings.databases.connect("checkout")
        await connection.execute(statement, *values)
        await connection.close()

    async def ended(self, order_id: str) -> dict[str, Any]:
        """Wait until an order has ended."""
        async with asyncio.timeout(9):
            while (order := (await self.browser.get(f"/api/orders/{order_id}")).json())["settled_at"] is None:
                await asyncio.sleep(0.01)
        return dict(order)

    async def read(self, order_id: str) -> tuple[dict[str, Any], str, str]:
        """Read an order by REST, and its page in both languages."""
        rest = await self.browser.get(f"/api/orders/{order_id}")
        assert rest.status_code == 200
        assert fits("Order", rest.json())
        pages = []
        for language in ("pt", "en"):
            self.browser.cookies.set("language", language)
            for path in (f"/orders/{order_id}/status", f"/orders/{order_id}"):
                page = await self.browser.get(path)
                assert page.status_code == 200
            pages.append(page.text)
        return rest.json(), pages[0], pages[1]

    async def at_bank(self, order_id: str) -> list[str]:
        """Tell how the bank's payments of an order stand."""
        payments = await payments_of(self.settings)
        return [item["status"] for item in payments if item["idempotency_key"] == order_id]

    def overdue(self) -> int:
        """Tell how often the resolver had to leave an order open past its limit."""
        value = self.telemetry.registry.get_sample_value("codebank_resolver_orders_total", {"status": "overdue"})
        return int(value or 0)


@pytest.fixture(scope="module")
async def running(postgres: EmbeddedPostgres) -> AsyncIterator[Future]:
    """Run one shop and one bank for all answers: each has an order, a basket and a browser of its own."""
    databases = await make_databases(postgres)
    # Long enough that nothing happens before a test lets its order grow old.
    patient: dict[str, Any] = {"resolve_after_seconds": 60, "cancel_after_seconds": 120}
    await seed(settings_for(databases))
    telemetry = Telemetry(METRICS)
    with pytest.MonkeyPatch.context() as pace:
        pace.setattr(resolver, "_POLL_SECONDS", 0.02)
        async with (
            serving_bank(settings_for(databases)) as server,
            future_bank(server.address) as (address, bank),
            open_shop(settings := settings_for(databases, bank_address=address, **patient), telemetry) as browsers,
        ):
            yield Future(settings, bank, browsers, telemetry, browsers())  # type: ignore[arg-type]


@pytest.fixture
def future(running: Future) -> Future:
    running.bank.changes.clear()
    return replace(running, browser=running.browsers())


def payment(**values: Any) -> Change:
    """Set fields of the payment that is answered."""

    def change(response: Any) -> Any:
        for name, value in values.items():
            if value is None:
                response.payment.ClearField(name)
            elif isinstance(value, dict):
                for part, content in value.items():
                    setattr(getattr(response.payment, name), part, content)
            else:
                setattr(response.payment, name, value)
        return response

    return change


def without_payment(response: Any) -> Any:
    response.ClearField("payment")
    return response


def with_unknown_fields(response: Any) -> bytes:
    inner = response.payment.SerializeToString() + UNKNOWN_FIELD
    outer = type(response)(payment=type(response.payment).FromString(inner)).SerializeToString()
    return bytes(outer + UNKNOWN_FIELD)


def raw(content: bytes) -> Change:
    return lambda _truth: content


def status(code: grpc.StatusCode) -> Change:
    return lambda _truth: code


#: Answers about a payment that the bank approved, and how the order ends.
OF_APPROVED: Final[dict[str, tuple[Change, str]]] = {
    "unknown fields": (with_unknown_fields, "paid"),
    "no time": (payment(created_at=None), "paid"),
    "a time out of range": (payment(created_at={"seconds": 10**15}), "paid"),
    "a time before all times": (payment(created_at={"seconds": -(10**12)}), "paid"),
    "a time that is no time": (payment(created_at={"nanos": -1}), "paid"),
    "a time far ahead": (payment(created_at={"seconds": 222_222_222_222}), "paid"),
    "no key": (payment(idempotency_key=""), "paid"),
    "a code and an advice": (payment(decline_code=99, advice=99), "paid"),
    "an unknown status": (payment(status=99), "cancelled"),
    "no status": (payment(status=0), "cancelled"),
    "no payment": (without_payment, "cancelled"),
    "nothing": (raw(b""), "cancelled"),
    "bytes that nobody can read": (raw(b"\xff\xff\xff"), "cancelled"),
    "an odd id": (payment(payment_id="pay_37"), "cancelled"),
    "no id": (payment(payment_id=""), "cancelled"),
    "another key": (payment(idempotency_key="another"), "cancelled"),
    "no amount": (payment(amount=None), "cancelled"),
    "another amount": (payment(amount={"amount_minor": 1}), "cancelled"),
    "a larger amount than there is": (payment(amount={"amount_minor": 2**62}), "cancelled"),
    "another currency": (payment(amount={"currency": "USD"}), "cancelled"),
    "an unknown currency": (payment(amount={"currency": "XQZ"}), "cancelled"),
    "a currency that is none": (payment(amount={"currency": "♦"}), "cancelled"),
    **{
        f"status {code.name}": (status(code), "cancelled")
        for code in (
            grpc.StatusCode.UNIMPLEMENTED,
            # What gRPC makes of a number that it has no name for.
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.DATA_LOSS,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.ALREADY_EXISTS,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAUTHENTICATED,
        )
    },
}


async def _buy(future: Future, door: str, number: str, change: Change) -> str:
    future.bank.changes |= {"Authorize": change, "GetPayment": change}
    return await future.buy(door, number)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", OF_APPROVED)
async def test_trap_c01_whatever_is_answered_about_a_charged_order_ends_it_with_its_money(
    future: Future, door: str, name: str
) -> None:
    change, ends = OF_APPROVED[name]
    order_id = await _buy(future, door, APPROVED, change)

    # The bank first: on a busy machine the resolver may make sure while the pages are read.
    charged = await future.at_bank(order_id)
    at_first, portuguese, english = await future.read(order_id)
    await future.grow_old(order_id)
    ended = await future.ended(order_id)
    at_last, *_ = await future.read(order_id)

    if at_first["status"] == "processing":
        # Not understood: the bank's approval stands until somebody has made sure that it does not.
        assert "Confirmando com o banco" in portuguese
        assert "Confirming with the bank" in english
        assert charged == ["approved"]
    else:
        assert at_first["status"] == ends
    assert (ended["status"], at_last["status"]) == (ends, ends)
    assert await future.at_bank(order_id) == [{"paid": "approved", "cancelled": "refunded"}[ends]]


#: Answers about a payment that the bank declined, and what the order keeps of the reason.
OF_DECLINED: Final[dict[str, tuple[Change, dict[str, str | None]]]] = {
    "an unknown code": (payment(decline_code=37), {"code": "code_37", "advice": "try_again_later"}),
    "a code below nought": (payment(decline_code=-1), {"code": "code_-1", "advice": "try_again_later"}),
    "no code": (payment(decline_code=0), {"code": "unspecified", "advice": "try_again_later"}),
    "an unknown advice": (payment(advice=9), {"code": "limit_exceeded", "advice": "advice_9"}),
    "no advice": (payment(advice=0), {"code": "limit_exceeded", "advice": None}),
    "neither known": (payment(decline_code=37, advice=9), {"code": "code_37", "advice": "advice_9"}),
    "an odd id": (payment(payment_id="pay_37"), {"code": "limit_exceeded", "advice": "try_again_later"}),
    "no time": (payment(created_at=None), {"code": "limit_exceeded", "advice": "try_again_later"}),
    "a time out of range": (
        payment(created_at={"seconds": 10**15}),
        {"code": "limit_exceeded", "advice": "try_again_later"},
    ),
    "an unknown currency": (
        payment(amount={"currency": "XQZ"}),
        {"code": "limit_exceeded", "advice": "try_again_later"},
    ),
    "unknown fields": (with_unknown_fields, {"code": "limit_exceeded", "advice": "try_again_later"}),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", OF_DECLINED)
async def test_trap_c04_a_decline_stays_a_decline_and_is_told_in_words_whatever_its_reason(
    future: Future, door: str, name: str
) -> None:
    change, decline = OF_DECLINED[name]
    order_id = await _buy(future, door, LIMIT_EXCEEDED, change)
    await future.grow_old(order_id)

    ended = await future.ended(order_id)
    rest, portuguese, english = await future.read(order_id)

    assert ended["status"] == rest["status"] == "declined"
    assert rest["decline"] == decline
    known = decline["code"] == "limit_exceeded"
    assert ("Cartão sem limite" if known else "por um motivo que esta página ainda não conhece") in portuguese
    assert ("No limit left" if known else "for a reason that this page does not know yet") in english or known
    shown = str(decline["code"]) + (" · advice_9" if decline["advice"] == "advice_9" else "")
    assert f"<code>{shown}</code>" in portuguese
    assert ("fale com o banco do seu" in portuguese) == (decline["advice"] == "advice_9")
    assert await future.at_bank(order_id) == ["declined"]


@pytest.mark.parametrize("door", DOORS)
async def test_a_decline_that_nobody_understands_is_cancelled_at_the_bank_and_told_as_what_it_was(
    future: Future, door: str
) -> None:
    order_id = await _buy(future, door, LIMIT_EXCEEDED, payment(status=99))
    await future.grow_old(order_id)

    ended = await future.ended(order_id)

    assert (ended["status"], ended["decline"]["code"]) == ("declined", "limit_exceeded")


def outcome(number: int) -> Change:
    def change(response: Any) -> Any:
        response.outcome = number
        return response

    return change


#: Answers of Cancel that say that nothing is charged, in their own way.
UNDERSTOOD: Final[dict[str, Change]] = {
    "no payment": without_payment,
    "an odd id": payment(payment_id="pay_37"),
    "an unknown status of the payment": payment(status=99),
    "a time out of range": payment(created_at={"seconds": 10**15}),
    "nothing charged, unknown status": lambda response: payment(status=99)(outcome(3)(response)),
    "nothing charged, no payment": lambda response: without_payment(outcome(3)(response)),
    "unknown fields": lambda response: bytes(response.SerializeToString() + UNKNOWN_FIELD),
}
#: Answers of Cancel that do not.
NOT_UNDERSTOOD: Final[dict[str, Change]] = {
    "an unknown outcome": outcome(99),
    "no outcome": outcome(0),
    "nothing charged, and approved": lambda response: payment(status=1)(outcome(3)(response)),
    "another key": payment(idempotency_key="another"),
    "nothing": raw(b""),
    "bytes that nobody can read": raw(b"\xff\xff\xff"),
    **{
        f"status {code.name}": status(code)
        for code in (
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.PERMISSION_DENIED,
        )
    },
}


async def _buy_for_cancel(future: Future, door: str, change: Change) -> str:
    """Buy so that the door itself must cancel, for the amount is wrong; later only Cancel can end the order."""
    future.bank.changes |= {
        "Authorize": payment(amount={"amount_minor": 1}),
        "GetPayment": status(grpc.StatusCode.UNIMPLEMENTED),
        "Cancel": change,
    }
    return await future.buy(door, APPROVED)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", UNDERSTOOD)
async def test_a_cancellation_that_says_that_nothing_is_charged_ends_the_order(
    future: Future, door: str, name: str
) -> None:
    order_id = await _buy_for_cancel(future, door, UNDERSTOOD[name])
    await future.grow_old(order_id)

    ended = await future.ended(order_id)

    assert ended["status"] == "cancelled"
    assert (await future.read(order_id))[0]["status"] == "cancelled"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
async def test_a_cancellation_that_is_not_understood_leaves_the_order_open_and_says_so(
    future: Future, door: str, name: str
) -> None:
    order_id = await _buy_for_cancel(future, door, NOT_UNDERSTOOD[name])
    before = future.overdue()
    await future.grow_old(order_id)
    await until(lambda: future.overdue() > before)

    rest, portuguese, english = await future.read(order_id)
    future.bank.changes.clear()
    await future.grow_old(order_id)
    ended = await future.ended(order_id)

    assert rest["status"] == "processing"
    assert "O banco ainda não confirmou nem desfez este pagamento." in portuguese
    assert "The bank has neither confirmed nor undone this payment yet." in english
    # The real bank had given the money back; now it says so in words of today.
    assert ended["status"] == "cancelled"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(9):
        while not holds():
            await asyncio.sleep(0.01)


async def test_an_order_that_a_later_shop_wrote_is_shown_and_left_alone(future: Future) -> None:
    order_id = await future.buy("page", APPROVED)
    keeper = await future.settings.databases.connect("checkout")
    checks = await keeper.fetch(
        "select conname, pg_get_constraintdef(oid) as definition from pg_constraint"
        " where conrelid = 'orders'::regclass and contype = 'c' and pg_get_constraintdef(oid) like '%status%'"
    )
    for check in checks:
        await keeper.execute(f'alter table orders drop constraint "{check["conname"]}"')
    await keeper.execute("update orders set status = 'on_hold' where order_id = $1", order_id)

    rest, portuguese, english = await future.read(order_id)

    await keeper.execute("update orders set status = 'paid' where order_id = $1", order_id)
    for check in checks:
        await keeper.execute(f'alter table orders add constraint "{check["conname"]}" {check["definition"]}')
    await keeper.close()
    assert rest["status"] == "on_hold"
    assert "Situação não reconhecida" in portuguese
    assert "State not recognised" in english
    assert "<code>on_hold</code>" in portuguese
