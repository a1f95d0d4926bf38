"""Records that decode and say what cannot be kept, or means nothing: dead letters, and nothing waits behind them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from codebank.eventlog.log import NewRecord
from codebank.events import PaymentEvent
from codebank.settings import Settings
from codebank.statement.dead_letters import read_dead_letters, replay
from tests.statement.desk import ANA, BIA, Desk, Story, open_desk, record_of

pytestmark = pytest.mark.anyio
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
STORED = "it cannot be stored: "
MADE = "no line can be made of it: "


@pytest.fixture
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(settings) as made:
        yield made


async def put_aside(desk: Desk, change: Callable[[PaymentEvent], PaymentEvent | NewRecord]) -> str:
    """Tell of three payments and of another account, the second payment changed; give why that was put aside."""
    story = Story().opened().paid(1000).paid(500).paid(700)
    told = story.events[2]
    assert isinstance(told, PaymentEvent)
    await desk.append(*story.events[:2], change(told), story.events[3], *Story(BIA).opened().paid(50).events)

    async with asyncio.timeout(10):
        await desk.project()

    assert await desk.lines() == [(2, "approved", 1000), (4, "approved", 700)]
    assert await desk.lines(BIA) == [(2, "approved", 50)]
    assert await desk.pool.fetchval("select used_minor from account where account_id = $1", ANA) == 2200
    (dead,) = await read_dead_letters(desk.pool)
    (again,) = await replay(desk.pool, None)
    assert again.outcome == dead.reason
    return dead.reason


@pytest.mark.parametrize(("field", "value", "reason"), [
    *[(name, "a\0b", f"{STORED}a text in it holds a zero character") for name in (
        "merchant_name", "merchant_category", "description", "card_masked", "currency", "decline_code", "status",
    )],
    ("amount_minor", 0, f"{MADE}0 minor units are no amount of a payment"),
    ("amount_minor", -500, f"{MADE}-500 minor units are no amount of a payment"),
    ("amount_minor", 100_000_000_000, f"{MADE}100000000000 minor units are no amount of a payment"),
    ("amount_minor", 2**70, f"{MADE}{2**70} minor units are no amount of a payment"),
    ("refunded_minor", -1, f"{MADE}-1 of 500 minor units cannot have been given back"),
    ("refunded_minor", 501, f"{MADE}501 of 500 minor units cannot have been given back"),
    ("parcelas", 0, f"{MADE}0 is no number of parcelas"),
    ("parcelas", -3, f"{MADE}-3 is no number of parcelas"),
    ("parcelas", 2**40, f"{MADE}{2**40} is no number of parcelas"),
    ("card_masked", "4111 1111 1111 1111", f"{MADE}its card is not masked"),
    ("created_at", FIRST, f"{MADE}date value out of range"),
    ("created_at", FIRST.replace(tzinfo=EAST), f"{MADE}date value out of range"),
    ("created_at", LAST.replace(tzinfo=WEST), f"{MADE}date value out of range"),
    ("created_at", datetime(2026, 11, 20, 15), f"{MADE}a time without a zone has no place on a calendar"),  # noqa: DTZ001
    # Only the database knows what it makes of this one.
    ("created_at", datetime(2026, 11, 20, 15, tzinfo=timezone(timedelta(hours=23))), f"{STORED}time zone displacement"),
])  # fmt: skip
async def test_trap_c03_what_a_payment_cannot_be_is_a_dead_letter(
    desk: Desk, field: str, value: Any, reason: str
) -> None:
    told = await put_aside(desk, lambda event: replace(event, payment=replace(event.payment, **{field: value})))

    assert told.startswith(reason)
    assert "4111" not in told


@pytest.mark.parametrize(("changes", "reason"), [
    ({"holder_name": "a\0b"}, f"{STORED}a text in it holds a zero character"),
    ({"currency": "\0"}, f"{STORED}a text in it holds a zero character"),
    ({"status": "open\0"}, f"{STORED}a text in it holds a zero character"),
    ({"limit_minor": 2**63}, f"{STORED}an amount of its account is out of range"),
    ({"used_minor": -(2**70)}, f"{STORED}an amount of its account is out of range"),
    ({"limit_minor": 2**63 - 1, "used_minor": -1}, f"{STORED}an amount of its account is out of range"),
])  # fmt: skip
async def test_trap_c03_what_an_account_cannot_be_is_a_dead_letter_whatever_came_with_it(
    desk: Desk, changes: dict[str, Any], reason: str
) -> None:
    assert await put_aside(desk, lambda event: replace(event, account=replace(event.account, **changes))) == reason


@pytest.mark.parametrize(("changes", "reason"), [
    ({"occurred_at": FIRST.replace(tzinfo=EAST)}, f"{MADE}date value out of range"),
    ({"occurred_at": LAST.replace(tzinfo=WEST)}, f"{MADE}date value out of range"),
    ({"sequence": 2**70}, f"sequence {2**70} is not a number of an event"),
    ({"sequence": 2**63 - 1}, f"sequence {2**63 - 1} is not a number of an event"),
    ({"sequence": -1}, "sequence -1 is not a number of an event"),
])  # fmt: skip
async def test_trap_c03_what_an_event_cannot_be_is_a_dead_letter(
    desk: Desk, changes: dict[str, Any], reason: str
) -> None:
    assert await put_aside(desk, lambda event: replace(event, **changes)) == reason


@pytest.mark.parametrize(("old", "new"), [
    ("Padaria São João".encode(), rb"\ud800 alone"),
    ("Padaria São João".encode(), b"\xed\xa0\x80"),
    (b'"amount_minor":500', b'"amount_minor":NaN'),
    (b'"amount_minor":500', b'"amount_minor":5e2'),
    (b'"amount_minor":500', b'"amount_minor":' + b"9" * 5000),
    (b'"sequence":3', b'"sequence":' + b"9" * 5000),
    (b'"sequence":3', b'"more":' + b"[" * 50_000 + b"]" * 50_000 + b',"sequence":3'),
    (b"2026-11-20T15:03:00Z", b"2026-11-20T15:03:60Z"),
    (b"2026-11-20T15:03:00Z", b"99999-11-20T15:03:00Z"),
])  # fmt: skip
async def test_trap_c03_a_value_that_no_reader_can_follow_is_a_dead_letter(desk: Desk, old: bytes, new: bytes) -> None:
    def change(event: PaymentEvent) -> NewRecord:
        written = record_of(event)
        assert old in written.value
        return NewRecord(written.key, written.value.replace(old, new), written.headers)

    assert re.match("value does not fit codebank.payment.approved: ", await put_aside(desk, change))


async def test_a_text_that_only_looks_like_a_zero_character_is_a_text(desk: Desk) -> None:
    await desk.append(*Story().opened().paid(1000, merchant_name=r"Loja \u0000").events)

    await desk.project()

    assert await desk.pool.fetchval("select merchant_name from line") == r"Loja \u0000"
    assert await read_dead_letters(desk.pool) == []
