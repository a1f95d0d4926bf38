"""Turns a basket into a paid order: order first, call second, answer third. No transaction is open during the call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from codebank.card import brand_of, mask
from codebank.checkout.bank import BankClient
from codebank.checkout.catalogue import Product
from codebank.checkout.lane import CommitLane
from codebank.checkout.order import (
    AmountMismatch,
    CardInput,
    EmptyBasket,
    Order,
    OrderLine,
    OrderStatus,
    Outcome,
    StaleAttempt,
    TotalChanged,
    Unknown,
    check_card,
    description_of,
    disowned,
    line_of,
    settle,
    total_of,
)
from codebank.checkout.store import goods
from codebank.checkout.store import orders as store
from codebank.checkout.store.orders import NewOrder, Settled
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.wire import new_id, utc_now

log = logging.getLogger(__name__)

#: How many orders are written at once at most.
_BATCH_MAX: Final = 200
#: How long the bank's next try may wait for the last one to be noted; the buyer is told of it, nothing depends on it.
_NOTE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Item:
    """What a caller of REST wants to buy."""

    product: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Placed:
    """An order, and whether this call made it."""

    order: Order
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Wish:
    """An order of REST that is not made yet."""

    key: str
    items: Sequence[Item]
    card: CardInput
    parcelas: int
    asked_at: datetime


@dataclass
class Shop:
    """Makes orders and has them paid."""

    pool: asyncpg.Pool
    bank: BankClient
    telemetry: Telemetry
    resolve_after_seconds: int
    cancel_after_seconds: int
    _placing: CommitLane[_Wish, Placed | CodebankError] = field(init=False)
    _settling: CommitLane[Settled, bool] = field(init=False)

    def __post_init__(self) -> None:
        turn = asyncio.Lock()
        self._placing = CommitLane(self._place_wishes, _BATCH_MAX, turn)
        self._settling = CommitLane(self._write_settled, _BATCH_MAX, turn)

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Gather what is to be written until the end of the block."""
        async with background(self._placing.run(), self._settling.run()):
            yield

    async def find(self, order_id: UUID) -> Order:
        """Read an order that there is."""
        async with self.pool.acquire() as connection:
            order = await store.find_order(connection, order_id=order_id)
        assert order is not None
        return order

    async def find_attempt(self, basket_id: UUID, attempt_key: UUID) -> Order | None:
        """Find the order that a page made before."""
        async with self.pool.acquire() as connection:
            order = await store.find_order(connection, key=f"page:{attempt_key}")
        return order if order is not None and order.basket_id == basket_id else None

    async def place_basket(
        self,
        basket_id: UUID,
        attempt_key: UUID,
        total_minor: int,
        card: CardInput,
        parcelas: int,
        language: str,
        clicked_at: datetime,
    ) -> Placed:
        """Make the order of a basket, once per attempt, however often the page is sent; its time is the click's.

        Raises StaleAttempt, TotalChanged or EmptyBasket where the page does not fit the basket any more.
        """
        key = f"page:{attempt_key}"
        async with self.pool.acquire() as connection, connection.transaction():
            basket = await goods.read_basket(connection, basket_id, lock=True)
            before = await store.find_order(connection, key=key)
            if before is not None and before.basket_id == basket_id:
                return Placed(before, is_new=False)
            if basket is None or basket.attempt_key != attempt_key:
                raise StaleAttempt
            if not basket.lines:
                raise EmptyBasket
            if basket.total_minor != total_minor:
                raise TotalChanged
            lines = [line_of(line.product, line.quantity, language) for line in basket.lines]
            order = _new_order(lines, card, parcelas, basket_id, clicked_at)
            await store.add_orders(connection, [self._new(order, key)])
        return Placed(order, is_new=True)

    async def place_items(self, key: str, items: Sequence[Item], card: CardInput, parcelas: int) -> Placed:
        """Make an order of REST, once per key.

        The key comes first: a repeat is answered with its order, whatever card, catalogue or prices would say by now.
        Raises CodebankError where a field is wrong, or where the key made another order.
        """
        placed = await self._placing.submit(_Wish(f"api:{key}", items, card, parcelas, utc_now()))
        if isinstance(placed, CodebankError):
            raise placed
        return placed

    async def _place_wishes(self, wishes: Sequence[_Wish]) -> list[Placed | CodebankError]:
        """Make the orders of REST that are right and new, together, and say of every other why there is none."""
        async with self.pool.acquire() as connection:
            slugs = {item.product for wish in wishes for item in wish.items}
            products = await goods.find_products(connection, sorted(slugs))
            drafts = [_draft(wish, products) for wish in wishes]
            added = await store.add_orders(
                connection,
                [
                    self._new(draft, wish.key)
                    for wish, draft in zip(wishes, drafts, strict=True)
                    if isinstance(draft, Order)
                ],
            )
            return [
                Placed(draft, is_new=True)
                if isinstance(draft, Order) and draft.order_id in added
                else await _placed_before(connection, wish, draft)
                for wish, draft in zip(wishes, drafts, strict=True)
            ]

    def _new(self, order: Order, key: str) -> NewOrder:
        return NewOrder(order, key, order.created_at + timedelta(seconds=self.resolve_after_seconds))

    async def pay(self, order: Order, card: CardInput) -> Order:
        """Charge an order and write the answer down. Processing where the answer did not come."""

        async def note_try() -> None:
            with contextlib.suppress(*OUTAGES):
                async with asyncio.timeout(_NOTE_SECONDS), self.pool.acquire() as connection:
                    await store.note_try(connection, order.order_id)

        return await self.settle(order, await self.bank.authorize(order, card, description_of(order), note_try))

    async def settle(self, order: Order, outcome: Outcome) -> Order:
        """Write what the bank answered of an order; safe to repeat, and an ended order stays as it is."""
        if isinstance(outcome, Unknown):
            log.warning("an outcome is unknown", extra=fields(order=order.order_id, reason=outcome.reason))
        try:
            return await self._write(order, outcome)
        except AmountMismatch as error:
            # Never keep money that the buyer did not agree to.
            log.error("amount mismatch", extra=fields(reason=str(error)))
            return await self.settle(order, await self.bank.cancel(order.order_id))
        except asyncpg.UniqueViolationError:
            log.error("another order has this payment", extra=fields(order=order.order_id))
            return await self._write(order, disowned(outcome))

    async def _write(self, order: Order, outcome: Outcome) -> Order:
        """Write what an outcome makes of an order; decided anew where somebody else was quicker."""
        while (settled := settle(order, outcome, utc_now())) != order:
            if await self._is_written(Settled(order, settled)):
                if settled.is_ended:
                    self.telemetry.counter("codebank_orders_total", settled.status).inc()
                return settled
            order = await self.find(order.order_id)
        return order

    async def _is_written(self, change: Settled) -> bool:
        basket_id = change.after.basket_id
        if basket_id is None or not change.after.is_ended:
            return await self._settling.submit(change)
        # With its basket, and beside the lane: whoever holds that basket holds up no other order.
        async with self.pool.acquire() as connection, connection.transaction():
            (is_written,) = await store.write_settled(connection, [change])
            if is_written:
                is_paid = change.after.status == OrderStatus.PAID
                await goods.begin_next_attempt(connection, basket_id, empty=is_paid)
        return is_written

    async def _write_settled(self, changes: Sequence[Settled]) -> list[bool]:
        async with self.pool.acquire() as connection:
            return await store.write_settled(connection, changes)


def _draft(wish: _Wish, products: Mapping[str, Product]) -> Order | CodebankError:
    """Give the order that a wish would be, or what is wrong with it."""
    if violations := check_card(wish.card, utc_now()):
        return invalid(*violations)
    unknown = [
        Violation(f"items[{place}].product", "is not on sale")
        for place, item in enumerate(wish.items)
        if item.product not in products
    ]
    if unknown:
        return invalid(*unknown)
    lines = [line_of(products[item.product], item.quantity, "pt") for item in wish.items]
    try:
        return _new_order(lines, wish.card, wish.parcelas, None, wish.asked_at)
    except CodebankError as error:
        return error


async def _placed_before(connection: Connection, wish: _Wish, draft: Order | CodebankError) -> Placed | CodebankError:
    """Answer a repeat with its order, whatever would be wrong with it by now."""
    before = await store.find_order(connection, key=wish.key)
    if before is None:
        assert isinstance(draft, CodebankError)
        return draft
    if not _asks_for(wish, before):
        return CodebankError(
            Code.KEY_REUSED,
            "this idempotency key made another order",
            hint="use a new key for a new order; repeat the same request to read its answer",
        )
    return Placed(before, is_new=False)


def _asks_for(wish: _Wish, order: Order) -> bool:
    """Tell whether a wish is what an order came of, as far as the order itself tells.

    No hash of the number is kept to tell by: whoever has its key, and the last four digits, finds the others.
    """
    wanted = sorted((item.product, item.quantity) for item in wish.items)
    made = sorted((line.product, line.quantity) for line in order.lines)
    card = (mask(wish.card.number), brand_of(wish.card.number), wish.card.expiry)
    kept = (order.card_masked, order.card_brand, order.card_expiry or wish.card.expiry)
    return (wanted, wish.parcelas, card) == (made, order.parcelas, kept)


def _new_order(
    lines: Sequence[OrderLine], card: CardInput, parcelas: int, basket_id: UUID | None, created_at: datetime
) -> Order:
    try:
        total = total_of(lines)
    except ValueError:
        raise invalid(Violation("items", "cost more than one payment may be")) from None
    return Order(
        order_id=new_id(),
        status=OrderStatus.PENDING,
        total=total,
        parcelas=parcelas,
        lines=tuple(lines),
        card_masked=mask(card.number),
        card_brand=brand_of(card.number),
        card_expiry=card.expiry,
        created_at=created_at,
        basket_id=basket_id,
    )
