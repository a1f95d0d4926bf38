"""What open pages are sent: what changed, that others of the reader's accounts moved, and a beat while nothing does.

One stream serves a whole browser: the tab that holds it is sent its own view, and is told of every account of the
reader's, so that it can tell the other tabs, which then ask for what they lack.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codebank.errors import Code, CodebankError
from codebank.runtime.postgres.errors import OUTAGES
from codebank.runtime.process import pause
from codebank.runtime.web.http import Json, push, sse_event
from codebank.statement.query import PagePosition, Query, choose_account, read_page_position, read_query
from codebank.statement.showing import BEAT_SECONDS, PAGE_SIZE, Showing, Viewer

_BEAT = sse_event("", event="beat")


@dataclass
class Pushing:
    """Answers open pages."""

    showing: Showing

    def routes(self) -> list[Route]:
        """List the routes of open pages."""
        return [
            Route("/live", self.live, methods=["GET"]),
            Route("/changes", self.changes, methods=["GET"]),
        ]

    async def changes(self, request: Request) -> Response:
        """Give what changed after an event, for pages that are not pushed to."""
        position = read_page_position(request.query_params.get("after", "0"))
        query = read_query(request.query_params, limit=PAGE_SIZE)
        html, position = await self._fragments(request, await self.showing.viewer(request), query, position)
        return Json({"after": str(position), "html": html}, headers={"cache-control": "no-store"})

    async def live(self, request: Request) -> Response:
        """Push what changes to an open page; `Last-Event-ID` says where the page stands."""
        last_event_id = request.headers.get("last-event-id") or request.query_params.get("after", "0")
        position = read_page_position(last_event_id)
        query = read_query(request.query_params, limit=PAGE_SIZE)
        viewer = await self.showing.viewer(request)
        choose_account(viewer.accounts, request.query_params.get("account", ""))
        return push(self._pushes(request, query, position, [account.account_id for account in viewer.accounts]))

    async def _pushes(
        self, request: Request, query: Query, position: PagePosition, account_ids: list[UUID]
    ) -> AsyncGenerator[bytes]:
        hub, known = self.showing.hub, dict[UUID, PagePosition]()
        with hub.page(account_ids) as woken:
            while not hub.is_closing:
                # Cleared before looking: what comes meanwhile wakes again.
                woken.clear()
                try:
                    events, position = await self._look(request, query, position, known)
                except CodebankError as error:
                    if error.code is Code.UNAUTHENTICATED:
                        yield sse_event("", event="bye")
                    return
                except OUTAGES:
                    return  # the page notices, and comes back
                yield b"".join([*events, _BEAT])
                await pause(woken, BEAT_SECONDS)

    async def _look(
        self, request: Request, query: Query, position: PagePosition, known: dict[UUID, PagePosition]
    ) -> tuple[list[bytes], PagePosition]:
        viewer, hub, events = await self.showing.viewer(request), self.showing.hub, list[bytes]()
        for account in viewer.accounts:
            found = self.showing.position(account)
            if known.get(account.account_id) != found:
                known[account.account_id] = found
                events.append(sse_event(f"{account.account_id} {found}", event="moved"))
        account = choose_account(viewer.accounts, request.query_params.get("account", ""))
        span = hub.telemetry.tracer.begin("push", hub.trace_of(account.account_id), "producer")
        html, position = await self._fragments(request, viewer, query, position)
        if html:
            events.append(sse_event(html, event="lines", event_id=str(position)))
            span.end()
        return events, position

    async def _fragments(
        self, request: Request, viewer: Viewer, query: Query, position: PagePosition
    ) -> tuple[str, PagePosition]:
        account = choose_account(viewer.accounts, request.query_params.get("account", ""))
        if self.showing.position(account) == position:
            return "", position
        values = await self.showing.values(request, viewer.cardholder, query, fresh_after=position.sequence)
        if values["account"] is None:
            raise CodebankError(Code.NOT_FOUND, "no such account")
        found: PagePosition = values["position"]
        # How fresh it is may turn without a new line.
        names = ["freshness"] if found.is_behind != position.is_behind else []
        names += ["top", "news", "lines"] if found.sequence != position.sequence else []
        html = "".join(self.showing.pages.block(request, "statement.html", name, values) for name in names)
        return html, found
