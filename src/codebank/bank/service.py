"""Carries out what the bank promises: open transaction → lock → decide → save → outbox → commit.

Safe with several bank processes on one database: row locks order them, and a key is taken once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from codebank.bank.account import Account, Card, Charge, Merchant, Outcome, authorize, refund
from codebank.bank.store import reading, writing
from codebank.errors import Code, CodebankError
from codebank.events import DeclineCode, PaymentState, PaymentStatus
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.watch.telemetry import Telemetry
from codebank.wire import new_id, utc_now

#: Places of cards kept in memory; a place never changes, so only the bound matters.
_PLACES_MAX: Final = 200_000


class Answer(Struct, frozen=True, gc=False):
    """What the bank answers to a charge."""

    payment: PaymentState
    idempotency_key: str
    #: Whether this is the first answer given again.
    replayed: bool
    #: False where a closed key was refused: then there is no payment.
    is_stored: bool = True


class CancelOutcome(StrEnum):
    """How a Cancel ended."""

    KEY_CLOSED = "key_closed"
    REFUNDED = "refunded"
    NOTHING_CHARGED = "nothing_charged"


@dataclass
class Authoriser:
    """Carries out charges, a batch in one transaction."""

    pool: asyncpg.Pool
    telemetry: Telemetry
    _places: dict[bytes | str, reading.Place] = field(default_factory=dict)

    async def carry_out(self, charges: Sequence[Charge]) -> list[Answer | CodebankError]:
        """Decide a batch in arrival order and commit it; the answers come in the same order."""
        async with self.pool.acquire() as connection:
            await self._locate(connection, charges)
            with self._traced(charges):
                transaction = connection.transaction()
                await transaction.start()
                try:
                    answers = await self._in_transaction(connection, charges)
                except BaseException:
                    await transaction.rollback()
                    raise
                started = time.perf_counter()
                await transaction.commit()
                self.telemetry.histogram("codebank_commit_seconds").observe(time.perf_counter() - started)
            return answers

    @contextlib.contextmanager
    def _traced(self, charges: Sequence[Charge]) -> Iterator[None]:
        """Record the transaction once for each charge that is traced: a batch serves many."""
        with contextlib.ExitStack() as stack:
            for charge in charges:
                if charge.traceparent:
                    span = self.telemetry.tracer.span(
                        "commit",
                        charge.traceparent,
                        db__system__name="postgresql",
                        codebank__batch_size=len(charges),
                        codebank__payment_id=str(charge.payment_id),
                    )
                    stack.enter_context(span)
            yield

    async def _locate(self, connection: Connection, charges: Sequence[Charge]) -> None:
        unknown = [charge for charge in charges if _handle(charge) not in self._places]
        if not unknown:
            return
        if len(self._places) > _PLACES_MAX:
            self._places.clear()
        fingerprints = {charge.fingerprint for charge in unknown if charge.fingerprint is not None}
        tokens = {charge.token for charge in unknown if charge.token is not None}
        self._places.update(await reading.locate_cards(connection, fingerprints, tokens))

    async def _in_transaction(self, connection: Connection, charges: Sequence[Charge]) -> list[Answer | CodebankError]:
        places = [self._places.get(_handle(charge)) for charge in charges]
        accounts, cards = await _lock(connection, charges, places)
        fresh, taken = await _take_keys(connection, charges, places)
        now = utc_now()
        outcomes: list[tuple[str, Outcome]] = []
        answers: list[Answer | CodebankError] = []
        traced: dict[UUID, str] = {}
        for charge, place in zip(charges, places, strict=True):
            if charge.payment_id not in fresh:
                answers.append(_answer_again(charge, taken[_name(charge)]))
                continue
            account = accounts[_account_id(charge, place)]
            card = cards[place.card_id] if place else None
            outcome = authorize(account, card, charge, now, new_id)
            accounts[account.account_id] = outcome.account
            if outcome.card is not None:
                cards[outcome.card.card_id] = outcome.card
            taken[_name(charge)] = reading.TakenKey(charge.request_hash, outcome.payment)
            outcomes.append((charge.idempotency_key, outcome))
            if charge.traceparent:
                traced[outcome.event.event_id] = charge.traceparent
            answers.append(Answer(outcome.payment, charge.idempotency_key, replayed=False))
        if outcomes:
            touched = {outcome.account.account_id for _, outcome in outcomes}
            changed = [accounts[account_id] for account_id in touched]
            await writing.write_outcomes(connection, changed, outcomes, now)
        if traced:
            await writing.write_traces(connection, traced)
        return answers


def _handle(charge: Charge) -> bytes | str:
    handle = charge.fingerprint if charge.fingerprint is not None else charge.token
    assert handle is not None
    return handle


def _name(charge: Charge) -> tuple[UUID, str]:
    return charge.merchant.merchant_id, charge.idempotency_key


def _account_id(charge: Charge, place: reading.Place | None) -> UUID:
    # A charge of a card that nobody knows belongs to the merchant's own account of unmatched attempts, so that it
    # has an order, a sequence and an event like any other.
    return place.account_id if place else charge.merchant.merchant_id


async def _lock(
    connection: Connection, charges: Sequence[Charge], places: Sequence[reading.Place | None]
) -> tuple[dict[UUID, Account], dict[UUID, Card]]:
    accounts, cards = await reading.lock_by_card(connection, {place.card_id for place in places if place})
    # Always after the cards' accounts, so that no two batches wait for each other in a circle.
    strays = {charge.merchant.merchant_id for charge, place in zip(charges, places, strict=True) if place is None}
    if strays:
        accounts.update(await reading.lock_accounts(connection, strays))
    return accounts, cards


async def _take_keys(
    connection: Connection, charges: Sequence[Charge], places: Sequence[reading.Place | None]
) -> tuple[set[UUID], dict[tuple[UUID, str], reading.TakenKey]]:
    """Take the keys, and give the payments that are new, and what the keys taken earlier were used for."""
    first: dict[tuple[UUID, str], Charge] = {}
    rows = []
    for charge, place in zip(charges, places, strict=True):
        if _name(charge) not in first:
            first[_name(charge)] = charge
            rows.append((*_name(charge), charge.request_hash, _account_id(charge, place), charge.payment_id))
    won = await reading.take_keys(connection, rows, utc_now())
    lost = [name for name in first if name not in won]
    taken = await reading.read_keys(connection, lost) if lost else {}
    return {first[name].payment_id for name in won}, taken


def _answer_again(charge: Charge, taken: reading.TakenKey) -> Answer | CodebankError:
    if taken.payment is None:
        return _refuse_closed_key(charge)
    if taken.request_hash != charge.request_hash:
        return CodebankError(
            Code.KEY_REUSED,
            "this idempotency key was used for another request",
            hint="use a new key for a new charge; repeat the same request to read its answer",
        )
    return Answer(taken.payment, charge.idempotency_key, replayed=True)


def _refuse_closed_key(charge: Charge) -> Answer:
    now = utc_now()
    payment = PaymentState(
        payment_id=charge.payment_id,
        status=PaymentStatus.DECLINED,
        decline_code=DeclineCode.CANCELLED_KEY,
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        refunded_minor=0,
        parcelas=charge.parcelas,
        merchant_id=charge.merchant.merchant_id,
        merchant_name=charge.merchant.name,
        merchant_category=charge.merchant.category_code,
        description=charge.description,
        card_masked=charge.card_masked,
        card_brand=charge.card_brand,
        card_id=None,
        created_at=now,
        updated_at=now,
    )
    return Answer(payment, charge.idempotency_key, replayed=False, is_stored=False)


async def cancel(pool: asyncpg.Pool, merchant: Merchant, key: str) -> tuple[CancelOutcome, PaymentState | None]:
    """Make sure that a key is never charged: close it if it is new, give its charge back if it was approved."""
    async with pool.acquire() as connection, connection.transaction():
        now = utc_now()
        # Waits for a charge under way with this key, and sees how it ended.
        if await reading.close_key(connection, merchant.merchant_id, key, now):
            return CancelOutcome.KEY_CLOSED, None
        payment = await _read_payment(connection, merchant, key)
        if payment is None:
            return CancelOutcome.KEY_CLOSED, None
        account_id = await reading.find_payment_account(connection, payment.payment_id)
        accounts = await reading.lock_accounts(connection, [account_id])
        # Read again under the lock: another Cancel may have given it back while this one waited.
        payment = await _read_payment(connection, merchant, key)
        assert payment is not None
        if payment.status is PaymentStatus.DECLINED:
            return CancelOutcome.NOTHING_CHARGED, payment
        if payment.status is PaymentStatus.APPROVED:
            outcome = refund(accounts[account_id], payment, now, new_id)
            await writing.write_refund(connection, outcome)
            payment = outcome.payment
        return CancelOutcome.REFUNDED, payment


async def _read_payment(connection: Connection, merchant: Merchant, key: str) -> PaymentState | None:
    taken = await reading.read_keys(connection, [(merchant.merchant_id, key)])
    found = taken.get((merchant.merchant_id, key))
    return found.payment if found else None


async def get_payment(
    pool: asyncpg.Pool, merchant: Merchant, *, payment_id: UUID | None = None, key: str = ""
) -> tuple[str, PaymentState]:
    """Read a merchant's own payment with its key. Raises CodebankError where there is none."""
    async with pool.acquire() as connection:
        if payment_id is not None:
            found = await reading.find_payment(connection, merchant.merchant_id, payment_id)
        else:
            payment = await _read_payment(connection, merchant, key)
            found = (key, payment) if payment else None
    if found is None:
        raise CodebankError(Code.NOT_FOUND, "no such payment of this merchant")
    return found
