"""A statement on a real port, with Ana signed in."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from codebank.roles import METRICS
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.statement.app import open_statement
from codebank.statement.live import Hub
from tests.statement.desk import Desk, Story, add_people, open_desk, sign_in
from tests.system import served


@dataclass
class Counted:
    """An application that knows how many requests it is at work on."""

    app: ASGIApp
    under_way: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.under_way += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.under_way -= 1


@dataclass
class Site:
    """A statement on a real port, with Ana signed in."""

    ana: httpx.AsyncClient
    desk: Desk
    hub: Hub
    counted: Counted
    port: int
    story: Story = field(default_factory=lambda: Story().opened())

    def requests_under_way(self) -> int:
        return self.counted.under_way

    async def tell(self, count: int = 1) -> None:
        """Let the account spend, and the projector see it."""
        before = len(self.story.events)
        for _ in range(count):
            self.story.paid(100)
        await self.show(before)

    async def show(self, before: int) -> None:
        """Let the projector see what the story tells after so many events."""
        await self.desk.append(*self.story.events[before:])
        await self.desk.project()


@contextlib.asynccontextmanager
async def open_site(settings: Settings) -> AsyncIterator[Site]:
    """Serve the pages of an account that was opened."""
    await add_people(settings)
    async with contextlib.AsyncExitStack() as stack:
        desk = await stack.enter_async_context(open_desk(settings))
        app, hub = await stack.enter_async_context(open_statement(settings, Telemetry(METRICS)))
        counted = Counted(app)
        port = await stack.enter_async_context(served(counted, hub.close))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=8) as ana:
            await sign_in(ana)
            site = Site(ana, desk, hub, counted, port)
            await site.show(0)
            yield site
