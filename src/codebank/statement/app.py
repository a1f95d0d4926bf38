"""The statement as running roles: the pages with their pushes, and the projector."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from starlette.applications import Starlette

from codebank.eventlog.choice import open_log
from codebank.runtime.postgres.pool import PoolMeter, open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.app import PATIENCE_SECONDS, create_app
from codebank.runtime.web.pages import Pages, Site
from codebank.settings import Settings
from codebank.statement.api import Api
from codebank.statement.live import Hub
from codebank.statement.projector import Projector
from codebank.statement.pushing import Pushing
from codebank.statement.showing import Showing
from codebank.statement.sign_in import SignIn
from codebank.statement.web import Web


@contextlib.asynccontextmanager
async def open_statement(
    settings: Settings, telemetry: Telemetry, demo_sign_in: tuple[str, str] = ("", "")
) -> AsyncIterator[tuple[Starlette, Hub]]:
    """Give the statement's application and the hub of its open pages.

    `demo_sign_in`, an e-mail and a password, is shown on the sign-in page of a demo.
    """
    dsn = settings.database_url("statement")
    meter = PoolMeter(telemetry, "statement")
    pool = await open_pool(
        dsn, max_size=settings.pool_size_max, role="statement", meter=meter, patience_seconds=PATIENCE_SECONDS
    )
    sign_in = SignIn(pool, telemetry, settings.sign_in_attempts_max, settings.session_hours)
    site = Site(
        section="statement",
        home="/",
        demo=settings.demo,
        checkout_url=settings.checkout_home(),
        statement_url=settings.statement_home(),
        audit_url=settings.audit_home(),
    )
    pages = Pages("codebank.statement", site)
    hub = Hub(dsn, telemetry)
    showing = Showing(sign_in, pages, hub)
    web = Web(sign_in, pages, showing, settings.secure_cookies, settings.session_hours, demo_sign_in)
    api = Api(sign_in, settings.checkout_home(), settings.secure_cookies, settings.session_hours)
    app = create_app(
        pages=pages,
        routes=[*api.routes(), *web.routes(), *Pushing(showing).routes()],
        telemetry=telemetry,
        secure_cookies=settings.secure_cookies,
    )
    try:
        async with hub.running(pool):
            yield app, hub
    finally:
        await pool.close()


async def run_projector(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    """Run one projector until asked to stop."""
    meter = PoolMeter(telemetry, "statement")
    pool = await open_pool(settings.database_url("statement"), max_size=4, role="projector", meter=meter)
    member = f"{socket.gethostname()}-{os.getpid()}"
    try:
        async with open_log(settings, "projector", telemetry=telemetry) as log:
            await Projector(pool, log, telemetry, member, settings.projector_batch_max).run(stop)
    finally:
        await pool.close()
