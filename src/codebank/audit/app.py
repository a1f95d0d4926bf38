"""The audit as a running role: the control room, and the proof again and again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from starlette.applications import Starlette

from codebank.audit.control.event_finder import EventFinder
from codebank.audit.control.web import ControlRoom
from codebank.audit.store.sides import open_sides
from codebank.runtime.process import background
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.app import create_app
from codebank.runtime.web.pages import Pages, Site
from codebank.settings import Settings


@contextlib.asynccontextmanager
async def open_audit(settings: Settings, telemetry: Telemetry, health: Mapping[str, int]) -> AsyncIterator[Starlette]:
    """Give the control room's application, proving in the background."""
    site = Site(
        section="audit",
        home="/",
        demo=settings.demo,
        checkout_url=settings.checkout_home(),
        statement_url=settings.statement_home(),
        audit_url=settings.audit_home(),
    )
    pages = Pages("codebank.audit.control", site)
    async with open_sides(settings, telemetry) as sides:
        room = ControlRoom(
            sides, pages, telemetry, settings.role_host or settings.own_host(), health, EventFinder(sides.log)
        )
        app = create_app(pages=pages, routes=room.routes(), telemetry=telemetry, secure_cookies=settings.secure_cookies)
        async with background(room.keep_proving()):
            yield app
