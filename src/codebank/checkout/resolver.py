"""The resolver: ends every order whose outcome is unknown, so that nobody is charged without an order."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from codebank.checkout.order import Unknown, is_overdue
from codebank.checkout.service import Shop
from codebank.checkout.store import orders as store
from codebank.checkout.store.orders import Patience
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.watch.telemetry import fields
from codebank.wire import utc_now

log = logging.getLogger(__name__)

#: How many orders are looked at at once: one that the bank is slow to tell of holds up no other.
_LOOKS_MAX: Final = 32
_POLL_SECONDS: Final = 0.5
_OUTAGE_PAUSE_SECONDS_MAX: Final = 4
#: How often an order is looked at: soon after it was made, and the less often the older it is.
_LOOK_AGAIN_LEAST: Final = timedelta(seconds=2)
_LOOK_AGAIN_MOST: Final = timedelta(seconds=30)
#: The bank never saw the key. A call may still be on its way, so nothing is decided from it.
_NEVER_SEEN: Final = Unknown("NOT_FOUND")


@dataclass
class Resolver:
    """Asks the bank by key, and past its limit has the key cancelled. Several may run."""

    shop: Shop
    _under_way: set[UUID] = field(default_factory=set, init=False)

    async def run(self) -> None:
        """Work until cancelled. An error with one order is that order's; one of the loop itself ends it."""
        pause_seconds = _POLL_SECONDS
        async with asyncio.TaskGroup() as looks:
            while True:
                try:
                    begun = await self._begin_looks(looks)
                    await self._report()
                except OUTAGES as error:
                    log.warning("resolver waits for its database: %s", type(error).__name__)
                    self.shop.telemetry.ready.note("resolver", does=False)
                    await asyncio.sleep(pause_seconds)
                    pause_seconds = min(pause_seconds * 2, _OUTAGE_PAUSE_SECONDS_MAX)
                    continue
                self.shop.telemetry.ready.note("resolver", does=True)
                pause_seconds = _POLL_SECONDS
                if not begun:
                    await asyncio.sleep(_POLL_SECONDS)

    async def _begin_looks(self, looks: asyncio.TaskGroup) -> int:
        """Begin to look at the orders that are due, and tell how many there were."""
        patience = Patience(timedelta(seconds=self.shop.resolve_after_seconds), _LOOK_AGAIN_LEAST, _LOOK_AGAIN_MOST)
        limit = _LOOKS_MAX - len(self._under_way)
        async with self.shop.pool.acquire() as connection:
            due = await store.lease_unresolved(connection, utc_now(), patience, limit, self._under_way)
        for order_id in due:
            self._under_way.add(order_id)
            looks.create_task(self._look(order_id))
        return len(due)

    async def _report(self) -> None:
        async with self.shop.pool.acquire() as connection:
            waiting, oldest = await store.count_unresolved(connection)
        age_seconds = (utc_now() - oldest).total_seconds() if oldest else 0.0
        self.shop.telemetry.gauge("codebank_orders_processing").set(waiting)
        self.shop.telemetry.gauge("codebank_orders_processing_age_seconds").set(max(0.0, age_seconds))

    async def _look(self, order_id: UUID) -> None:
        try:
            await self._resolve(order_id)
        except OUTAGES as error:
            log.warning("an order waits for the database: %s", type(error).__name__, extra=fields(order=order_id))
        except Exception as error:
            # It is looked at again like any other; neither the role nor another order pays for it.
            log.error("an order cannot be resolved", exc_info=error, extra=fields(order=order_id))
            self._count("failed")
        finally:
            self._under_way.discard(order_id)

    async def _resolve(self, order_id: UUID) -> None:
        shop = self.shop
        outcome = await shop.bank.find(order_id) or _NEVER_SEEN
        order = await shop.settle(await shop.find(order_id), outcome)
        if is_overdue(order, utc_now(), shop.cancel_after_seconds):
            order = await shop.settle(order, await shop.bank.cancel(order_id))
        if order.is_ended:
            self._count(order.status)
            log.info("resolved an unknown outcome", extra=fields(order=order_id, status=order.status))
        elif is_overdue(order, utc_now(), shop.cancel_after_seconds):
            self._count("overdue")
            log.error("the bank neither confirms nor cancels an order", extra=fields(order=order_id))

    def _count(self, status: str) -> None:
        self.shop.telemetry.counter("codebank_resolver_orders_total", status).inc()
