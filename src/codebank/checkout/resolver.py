"""The resolver: ends every order whose outcome is unknown, so that nobody is charged without an order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from uuid import UUID

from codebank.checkout import store
from codebank.checkout.order import Outcome, should_cancel
from codebank.checkout.service import Shop
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.watch.telemetry import fields
from codebank.wire import utc_now

log = logging.getLogger(__name__)

_BATCH = 50
_POLL_SECONDS = 0.5


@dataclass
class Resolver:
    """Asks the bank by key, and past its limit has the key cancelled. Several may run."""

    shop: Shop
    cancel_after_seconds: int
    lease_seconds: int

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                found = await self.resolve_once()
                await self._report()
            except OUTAGES as error:
                log.warning("resolver waits for its database: %s", type(error).__name__)
                found = 0
            if not found:
                await asyncio.sleep(_POLL_SECONDS)

    async def resolve_once(self) -> int:
        """Look at the orders that are due, and tell how many there were."""
        async with self.shop.pool.acquire() as connection:
            due = await store.lease_unresolved(connection, utc_now(), self.lease_seconds, _BATCH)
        for order_id in due:
            with contextlib.suppress(asyncio.TimeoutError):
                await self._resolve(order_id)
        return len(due)

    async def _report(self) -> None:
        async with self.shop.pool.acquire() as connection:
            waiting, oldest = await store.count_unresolved(connection)
        age_seconds = (utc_now() - oldest).total_seconds() if oldest else 0.0
        self.shop.telemetry.gauge("codebank_orders_processing").set(waiting)
        self.shop.telemetry.gauge("codebank_orders_processing_age_seconds").set(max(0.0, age_seconds))

    async def _resolve(self, order_id: UUID) -> None:
        outcome = await self._ask(order_id)
        if outcome is None:
            return
        order = await self.shop.settle(order_id, outcome)
        if order.is_ended:
            self.shop.telemetry.counter("codebank_resolver_orders_total", order.status).inc()
            log.info("resolved an unknown outcome", extra=fields(order=order_id, status=order.status))

    async def _ask(self, order_id: UUID) -> Outcome | None:
        found = await self.shop.bank.find(order_id)
        if found is not None:
            return found
        # The bank never saw the key. A call may still be on its way, so wait until none can be, then close the key.
        async with self.shop.pool.acquire() as connection:
            kept = await store.find_order(connection, order_id=order_id)
        if kept is not None and should_cancel(kept.order, utc_now(), self.cancel_after_seconds):
            return await self.shop.bank.cancel(order_id)
        return None
