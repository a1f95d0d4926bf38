"""Turns a basket into a paid order: order first, call second, answer third. No transaction is open during the call."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import asyncpg

from codebank.card import brand_of, mask
from codebank.checkout import store
from codebank.checkout.bank import BankClient
from codebank.checkout.catalogue import Product
from codebank.checkout.order import (
    AmountMismatch,
    CardInput,
    Order,
    OrderLine,
    OrderStatus,
    Outcome,
    Unknown,
    check_card,
    description_of,
    disowned,
    settle,
    total_of,
)
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.runtime.postgres.pool import Connection
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.wire import new_id, utc_now

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """What a caller of REST wants to buy."""

    product: str
    quantity: int


class StaleAttempt(Exception):
    """The page that was sent is not the basket's present one; nothing was charged."""


class TotalChanged(Exception):
    """The basket costs something else than the page said; nothing was charged."""


class EmptyBasket(Exception):
    """There is nothing to pay."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An order, and whether this call made it."""

    order: Order
    is_new: bool


@dataclass
class Shop:
    """Makes orders and has them paid."""

    pool: asyncpg.Pool
    bank: BankClient
    telemetry: Telemetry
    secret: str
    resolve_after_seconds: int
    cancel_after_seconds: int

    async def find_attempt(self, basket_id: UUID, attempt_key: UUID) -> Order | None:
        """Find the order that a page made before."""
        async with self.pool.acquire() as connection:
            stored = await store.find_order(connection, key=f"page:{attempt_key}")
        return stored.order if stored is not None and stored.basket_id == basket_id else None

    async def place_basket(
        self, basket_id: UUID, attempt_key: UUID, total_minor: int, card: CardInput, parcelas: int, language: str
    ) -> Placed:
        """Make the order of a basket, once per attempt, however often the page is sent.

        Raises StaleAttempt, TotalChanged or EmptyBasket where the page does not fit the basket any more.
        """
        key = f"page:{attempt_key}"
        async with self.pool.acquire() as connection, connection.transaction():
            basket = await store.read_basket(connection, basket_id, lock=True)
            stored = await store.find_order(connection, key=key)
            if stored is not None and stored.basket_id == basket_id:
                return Placed(stored.order, is_new=False)
            if basket is None or basket.attempt_key != attempt_key:
                raise StaleAttempt
            if not basket.lines:
                raise EmptyBasket
            if basket.total_minor != total_minor:
                raise TotalChanged
            lines = [_line(line.product, line.quantity, language) for line in basket.lines]
            order = self._new_order(lines, card, parcelas)
            await self._keep(connection, order, key, b"", basket_id)
        return Placed(order, is_new=True)

    async def place_items(self, key: str, items: Sequence[Item], card: CardInput, parcelas: int) -> Placed:
        """Make an order of REST, once per key.

        The key comes first: a repeat is answered with its order, whatever card, catalogue or prices would say by now.
        Raises CodebankError where a field is wrong, or where the key made another order.
        """
        request_hash = self._hash(items, card, parcelas)
        async with self.pool.acquire() as connection, connection.transaction():
            stored = await store.find_order(connection, key=f"api:{key}")
            if stored is None:
                if violations := check_card(card, utc_now()):
                    raise invalid(*violations)
                order = self._new_order(await _priced(connection, items), card, parcelas)
                if await self._keep(connection, order, f"api:{key}", request_hash, None):
                    return Placed(order, is_new=True)
                # The same request came twice at once, and the other one was quicker.
                stored = await store.find_order(connection, key=f"api:{key}")
        assert stored is not None
        if not hmac.compare_digest(stored.request_hash, request_hash):
            raise CodebankError(
                Code.KEY_REUSED,
                "this idempotency key made another order",
                hint="use a new key for a new order; repeat the same request to read its answer",
            )
        return Placed(stored.order, is_new=False)

    def _new_order(self, lines: Sequence[OrderLine], card: CardInput, parcelas: int) -> Order:
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
            created_at=utc_now(),
        )

    async def _keep(
        self, connection: Connection, order: Order, key: str, request_hash: bytes, basket_id: UUID | None
    ) -> bool:
        resolve_at = order.created_at + timedelta(seconds=self.resolve_after_seconds)
        return await store.add_order(connection, order, key, request_hash, basket_id, resolve_at)

    def _hash(self, items: Sequence[Item], card: CardInput, parcelas: int) -> bytes:
        # Keyed, so that the hash tells nothing of the card; without the CVV, of which nothing may be kept.
        wanted = ",".join(f"{item.product}*{item.quantity}" for item in sorted(items, key=lambda item: item.product))
        text = f"{wanted}|{card.number}|{card.expiry_year}-{card.expiry_month}|{parcelas}"
        return hmac.digest(self.secret.encode(), text.encode(), hashlib.sha256)

    async def pay(self, order: Order, card: CardInput) -> Order:
        """Charge an order and write the answer down. Processing where the answer did not come."""
        outcome = await self.bank.authorize(order, card, description_of(order))
        return await self.settle(order.order_id, outcome)

    async def settle(self, order_id: UUID, outcome: Outcome) -> Order:
        """Write what the bank answered; safe to repeat, and an ended order stays as it is."""
        if isinstance(outcome, Unknown):
            log.warning("an outcome is unknown", extra=fields(order=order_id, reason=outcome.reason))
        try:
            return await self._write(order_id, outcome)
        except AmountMismatch as error:
            # Never keep money that the buyer did not agree to.
            log.error("amount mismatch", extra=fields(reason=str(error)))
            return await self.settle(order_id, await self.bank.cancel(order_id))
        except asyncpg.UniqueViolationError:
            log.error("another order has this payment", extra=fields(order=order_id))
            return await self._write(order_id, disowned(outcome))

    async def _write(self, order_id: UUID, outcome: Outcome) -> Order:
        async with self.pool.acquire() as connection, connection.transaction():
            stored = await store.find_order(connection, order_id=order_id, lock=True)
            assert stored is not None
            settled = settle(stored.order, outcome, utc_now())
            if settled == stored.order:
                return settled
            await store.write_settled(connection, settled)
            if settled.is_ended and stored.basket_id is not None:
                is_paid = settled.status == OrderStatus.PAID
                await store.begin_next_attempt(connection, stored.basket_id, empty=is_paid)
        if settled.is_ended:
            self.telemetry.counter("codebank_orders_total", settled.status).inc()
        return settled


def _line(product: Product, quantity: int, language: str) -> OrderLine:
    return OrderLine(
        product=product.slug,
        name=product.name(language),
        quantity=quantity,
        unit_price_minor=product.price_minor,
    )


async def _priced(connection: Connection, items: Sequence[Item]) -> list[OrderLine]:
    products = await store.find_products(connection, [item.product for item in items])
    unknown = [
        Violation(f"items[{place}].product", "is not on sale")
        for place, item in enumerate(items)
        if item.product not in products
    ]
    if unknown:
        raise invalid(*unknown)
    return [_line(products[item.product], item.quantity, "pt") for item in items]
