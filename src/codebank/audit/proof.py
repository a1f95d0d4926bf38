"""The proof: reads orders, ledger, log and statement, and says whether they agree to the cent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from codebank.audit import store
from codebank.audit.reconcile import Check, PaymentFact, Proof, check_of, compare_payments, gaps
from codebank.audit.store import Sides
from codebank.errors import Code, CodebankError
from codebank.eventlog.outbox import headers_of
from codebank.events import PAYMENTS_TOPIC, PaymentEvent
from codebank.runtime.database import CONNECTION_ERRORS, Connection
from codebank.settings import Settings
from codebank.wire import MalformedEvent, decode_event

_OUTBOX: Final = "select * from outbox order by account_id, sequence"
_LOG: Final = 'select headers, value from record where topic = $1 order by partition, "offset"'


@dataclass
class _Events:
    """What the events say, those on the log and those that wait in the outbox."""

    #: The last number that the bank gave out, per account.
    sequences: dict[UUID, int]
    #: Numbers per account, in the order of the log; then those that wait.
    on_log: dict[UUID, list[int]] = field(default_factory=dict)
    waiting: dict[UUID, list[int]] = field(default_factory=dict)
    payments: dict[UUID, PaymentFact] = field(default_factory=dict)
    #: How often each payment's state was told.
    changes: dict[UUID, int] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    repeated: list[str] = field(default_factory=list)
    unreadable: int = 0


async def prove_once(settings: Settings) -> Proof:
    """Open every side, prove, and close. Raises CodebankError where a side does not answer."""
    try:
        async with store.open_sides(settings) as sides:
            return await prove(sides)
    except CONNECTION_ERRORS as error:
        raise CodebankError(
            Code.UNAVAILABLE, f"a database does not answer: {error}", hint="start it with `codebank up`"
        ) from None


async def prove(sides: Sides) -> Proof:
    """Compare all sides. Safe under load: what is on its way is lag, not a difference.

    The statement is read before the bank, so whatever it shows the bank knows. The log is read after the bank's outbox,
    so an event that is shipped in between is seen at least once; what came later than the bank's numbers is left out.
    Orders are read on both sides of the bank: an ended order's payment must be there, a payment's order too.
    """
    orders_before = await _orders(sides)
    lines, seen = await _statement(sides)
    async with store.snapshot(sides.bank) as bank:
        sequences = {row["account_id"]: row["sequence"] for row in await bank.fetch("select * from account")}
        bank_payments = await _payments(bank)
        outbox = [row async for row in store.stream(bank, _OUTBOX)]
        of_ledger = [
            await _check_balance(bank),
            await _check_used(bank),
            await _check_moved(bank, len(bank_payments)),
        ]
        chain = await _check_chain(bank, len(sequences))
    orders_after = await _orders(sides)
    async with store.snapshot(sides.log) as log:
        events = await _read_events(log, outbox, sequences)
    checks = (
        *of_ledger,
        _check_changes(events, bank_payments, sequences),
        _check_log(events),
        _check_statement(events, lines, seen),
        _check_orders(orders_before, orders_after, bank_payments),
        chain,
    )
    lag = sum(sequences.values()) - sum(min(seen.get(account, 0), last) for account, last in sequences.items())
    return Proof(checks, lag)


async def _statement(sides: Sides) -> tuple[dict[UUID, PaymentFact], dict[UUID, int]]:
    async with store.snapshot(sides.statement) as connection:
        lines = {
            row["payment_id"]: PaymentFact(**row)
            async for row in store.stream(
                connection,
                "select account_id, payment_id, status, amount_minor, refunded_minor, sequence, first_sequence"
                " from line",
            )
        }
        seen = {
            row["account_id"]: row["sequence"]
            for row in await connection.fetch("select account_id, sequence from account")
        }
    return lines, seen


async def _read_events(connection: Connection, outbox: list[asyncpg.Record], sequences: dict[UUID, int]) -> _Events:
    events = _Events(sequences)
    async for row in store.stream(connection, _LOG, PAYMENTS_TOPIC):
        _note(events, row["headers"], row["value"], events.on_log)
    for row in outbox:
        # Between ship and removal an event is on both: that is no repetition.
        if str(row["event_id"]) not in events.ids:
            _note(events, headers_of(row), row["value"], events.waiting)
    return events


def _note(events: _Events, headers: dict[str, str], value: bytes, numbers: dict[UUID, list[int]]) -> None:
    try:
        event = decode_event(headers, value)
    except MalformedEvent:
        events.unreadable += 1
        return
    event_id = str(event.event_id)
    if event_id in events.ids:
        events.repeated.append(f"event {event_id} is on the log more than once")
        return
    events.ids.add(event_id)
    if event.sequence > events.sequences.get(event.account_id, 0):
        return  # came after the bank was read
    numbers.setdefault(event.account_id, []).append(event.sequence)
    if isinstance(event, PaymentEvent):
        payment = event.payment
        before = events.payments.get(payment.payment_id)
        events.changes[payment.payment_id] = events.changes.get(payment.payment_id, 0) + 1
        events.payments[payment.payment_id] = PaymentFact(
            account_id=event.account_id,
            payment_id=payment.payment_id,
            status=payment.status,
            amount_minor=payment.amount_minor,
            refunded_minor=payment.refunded_minor,
            sequence=event.sequence,
            first_sequence=before.first_sequence if before else event.sequence,
        )


async def _payments(connection: Connection) -> dict[UUID, dict[str, object]]:
    sql = (
        "select account_id, payment_id, idempotency_key, status, amount_minor, refunded_minor, currency, merchant_id"
        " from payment"
    )
    return {row["payment_id"]: dict(row) async for row in store.stream(connection, sql)}


async def _orders(sides: Sides) -> dict[str, dict[str, object]]:
    async with store.snapshot(sides.checkout) as connection:
        return {
            str(row["order_id"]): dict(row)
            async for row in store.stream(
                connection, "select order_id, status, total_minor, currency, payment_id from orders"
            )
        }


async def _check_balance(bank: Connection) -> Check:
    rows = await store.trial_balance(bank)
    differences = []
    for currency in {row["currency"] for row in rows}:
        debit = sum(row["debit"] for row in rows if row["currency"] == currency)
        credit = sum(row["credit"] for row in rows if row["currency"] == currency)
        if debit != credit:
            differences.append(f"{currency}: debits {debit}, credits {credit}")
    differences += [
        f"entry {row['entry_number']} of account {row['account_id']} has no payment"
        for row in await store.orphan_entries(bank)
    ]
    count = await bank.fetchval("select count(*) from entry")
    return check_of("balance", "debits equal credits, and every entry has its payment", count, differences)


async def _check_used(bank: Connection) -> Check:
    differences = [
        f"account {row['account_id']}: used {row['used_minor']} of {row['limit_minor']}, entries say {row['moved']}"
        for row in await store.broken_balances(bank)
    ]
    count = await bank.fetchval("select count(*) from account")
    return check_of("used", "each account's used amount is what its entries say, within its limit", count, differences)


async def _check_moved(bank: Connection, count: int) -> Check:
    differences = [
        f"payment {row['payment_id']} {row['status']} {row['amount_minor']}: {row['count']} entries,"
        f" charged {row['charged']}, returned {row['returned']}"
        for row in await store.payments_moved_wrongly(bank)
    ]
    promise = "an approved payment moved its amount once, a declined one nothing, a returned one there and back"
    return check_of("moved", promise, count, differences)


def _check_changes(events: _Events, payments: dict[UUID, dict[str, object]], sequences: dict[UUID, int]) -> Check:
    differences = []
    for payment_id, payment in payments.items():
        told, expected = events.changes.get(payment_id, 0), 2 if payment["status"] == "refunded" else 1
        fact = events.payments.get(payment_id)
        if told != expected:
            differences.append(f"payment {payment_id} {payment['status']} was told by {told} events, not {expected}")
        elif fact and (fact.status, fact.amount_minor) != (payment["status"], payment["amount_minor"]):
            differences.append(f"payment {payment_id} is {payment['status']}, its last event says {fact.status}")
    differences += [f"event of payment {payment}: no such payment" for payment in events.payments.keys() - payments]
    for account_id, last in sequences.items():
        numbers = events.on_log.get(account_id, []) + events.waiting.get(account_id, [])
        if len(numbers) != last:
            differences.append(f"account {account_id}: {len(numbers)} events, its last number is {last}")
    promise = "each change of a payment is one event, and each account's numbers end where its row says"
    return check_of("events", promise, len(payments), differences)


def _check_log(events: _Events) -> Check:
    differences = list(events.repeated)
    if events.unreadable:
        differences.append(f"{events.unreadable} records on the log cannot be read")
    for account_id, numbers in events.on_log.items():
        differences += [f"account {account_id}: {gap}" for gap in gaps(numbers)]
    count = sum(len(numbers) for numbers in events.on_log.values())
    return check_of("log", "each event is on the log once, numbers per account 1, 2, 3 … in order", count, differences)


def _check_statement(events: _Events, lines: dict[UUID, PaymentFact], seen: dict[UUID, int]) -> Check:
    differences = compare_payments(events.payments, lines, seen, "statement")
    promise = "the statement's lines are the bank's payments, each once, to the cent"
    return check_of("statement", promise, len(lines), differences)


def _check_orders(
    before: dict[str, dict[str, object]],
    after: dict[str, dict[str, object]],
    payments: dict[UUID, dict[str, object]],
) -> Check:
    differences = []
    by_key = {payment["idempotency_key"]: payment for payment in payments.values()}
    for order_id, order in before.items():
        payment = by_key.get(order_id)
        if order["status"] == "paid" and (payment is None or payment["status"] != "approved"):
            differences.append(
                f"order {order_id} is paid, its payment is {payment['status'] if payment else 'missing'}"
            )
        elif order["status"] == "paid" and payment is not None and payment["amount_minor"] != order["total_minor"]:
            differences.append(f"order {order_id} of {order['total_minor']} was charged {payment['amount_minor']}")
        elif order["status"] in ("declined", "cancelled") and payment and payment["status"] == "approved":
            differences.append(f"order {order_id} is {order['status']}, its payment is approved")
    merchants = {by_key[order]["merchant_id"] for order in before if order in by_key}
    # Only of merchants whose shop is this checkout, and keys that are an order's: others keep their orders elsewhere.
    differences += [
        f"payment {payment['payment_id']} of {payment['amount_minor']} has no order"
        for key, payment in by_key.items()
        if payment["status"] == "approved" and payment["merchant_id"] in merchants
        if _is_order(str(key)) and key not in after
    ]
    promise = "each paid order has one payment of its amount, and no payment of the shop is without an order"
    return check_of("orders", promise, len(before), differences)


def _is_order(key: str) -> bool:
    try:
        UUID(key)
    except ValueError:
        return False
    return True


async def _check_chain(bank: Connection, count: int) -> Check:
    differences = [
        f"account {account_id}: entry {number} does not follow"
        async for account_id, number in store.broken_chains(bank)
    ]
    return check_of("chain", "the hash chain of every account's entries verifies", count, differences)
