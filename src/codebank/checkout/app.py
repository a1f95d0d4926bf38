"""The checkout as a running role: its pool, its client of the bank, its resolver, its pages and REST."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.applications import Starlette

from codebank.checkout.api import api_routes
from codebank.checkout.bank import BankClient
from codebank.checkout.resolver import Resolver
from codebank.checkout.service import Shop
from codebank.checkout.tasks import Tasks
from codebank.checkout.web import Web
from codebank.runtime.grpc.channels import channels_for
from codebank.runtime.grpc.tls import Identity
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.process import background
from codebank.runtime.processes import process_count
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.app import PATIENCE_SECONDS, create_app
from codebank.runtime.web.pages import Pages, Site
from codebank.settings import Settings

#: What the shop joins is a handful of ids with the rows that they name. A plan that reads a whole table is quicker only
#: while that is nearly empty, and stays in use when it no longer is.
_FOUND_BY_ID: Final = {"enable_hashjoin": "off", "enable_mergejoin": "off"}


@contextlib.asynccontextmanager
async def open_shop(
    settings: Settings, telemetry: Telemetry, test_cards: Sequence[object] = ()
) -> AsyncIterator[Starlette]:
    """Give the shop's application with its resolver at work; on leaving, finish the calls under way.

    `test_cards` are shown on the payment page of a demo.
    """
    pool = await open_pool(
        settings.database_url("checkout"),
        max_size=settings.pool_size_max,
        role="checkout",
        server_settings=_FOUND_BY_ID,
        meter=PoolMeter(telemetry, "checkout"),
        patience_seconds=PATIENCE_SECONDS,
    )
    target, identity = settings.bank_target(), Identity.of(settings)
    channels = settings.bank_channels or channels_for(process_count(settings.bank_processes))
    bank = BankClient(target, settings.merchant_key, settings.call_budget_seconds, telemetry, identity, channels)
    shop = Shop(pool, bank, telemetry, settings.resolve_after_seconds, settings.cancel_after_seconds)
    tasks = Tasks()
    site = Site(
        section="checkout",
        home="/",
        demo=settings.demo,
        checkout_url=settings.checkout_home(),
        statement_url=settings.statement_home(),
        audit_url=settings.audit_home(),
    )
    pages = Pages("codebank.checkout", site)
    web = Web(shop, pages, tasks, settings.secure_cookies, test_cards)
    app = create_app(
        pages=pages,
        routes=[*api_routes(shop, tasks), *web.routes()],
        telemetry=telemetry,
        connect=[settings.statement_home()],
        secure_cookies=settings.secure_cookies,
    )
    try:
        async with shop.at_work():
            try:
                async with background(Resolver(shop).run()):
                    yield app
            finally:
                # Before the lanes end: what is under way has an answer to write down.
                await tasks.drain(settings.stop_grace_seconds)
    finally:
        await bank.close()
        await pool.close()
