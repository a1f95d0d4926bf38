"""The control room's pages and its JSON: the flow as it is now, and the last proof."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from codebank.audit.flow import Flow, read_flow
from codebank.audit.proof import prove
from codebank.audit.reconcile import DIFFERENCES_SHOWN, Proof
from codebank.audit.store import Sides
from codebank.money import Money
from codebank.runtime.database import CONNECTION_ERRORS
from codebank.runtime.http import Json
from codebank.runtime.pages import Pages
from codebank.runtime.telemetry import Telemetry
from codebank.wire import utc_now

log = logging.getLogger(__name__)

#: Pause between two proofs; each reads everything, so not more often.
_PROOF_SECONDS = 10


@dataclass
class ControlRoom:
    """Shows the flow, and proves again and again."""

    sides: Sides
    pages: Pages
    telemetry: Telemetry
    host: str
    #: Role → its health port.
    health: Mapping[str, int]
    _proof: Proof | None = field(default=None, init=False)
    _proved_at: datetime | None = field(default=None, init=False)

    def routes(self) -> list[Route]:
        """List the routes."""
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/now", self.now, methods=["GET"]),
            Route("/api/flow", self.flow_document, methods=["GET"]),
            Route("/api/proof", self.proof_document, methods=["GET"]),
        ]

    async def keep_proving(self) -> None:
        """Prove until cancelled, and set the metrics that alerts watch."""
        while True:
            try:
                self._proof, self._proved_at = await prove(self.sides), utc_now()
                for check in self._proof.checks:
                    self.telemetry.gauge("codebank_proof_checks", check.name).set(int(check.holds))
                    if not check.holds:
                        log.error("the proof failed: %s: %s", check.name, check.differences[0])
            except CONNECTION_ERRORS as error:
                log.warning("the proof waits for a database: %s", type(error).__name__)
            await asyncio.sleep(_PROOF_SECONDS)

    async def _values(self) -> dict[str, Any]:
        flow = await read_flow(self.sides, self.health, self.host)
        return {
            "flow": flow,
            "proof": self._proof,
            "proved_at": self._proved_at,
            "differences_shown": DIFFERENCES_SHOWN,
            "money": Money,
        }

    async def page(self, request: Request) -> Response:
        """Show the control room."""
        return self.pages.render(request, "control.html", await self._values())

    async def now(self, request: Request) -> Response:
        """Give the part of the page that changes."""
        html = self.pages.block(request, "control.html", "now", await self._values())
        return HTMLResponse(html, headers={"cache-control": "no-store"})

    async def flow_document(self, _request: Request) -> Response:
        """Give the flow as JSON."""
        return Json(await self._flow(), headers={"cache-control": "no-store"})

    async def _flow(self) -> Flow:
        return await read_flow(self.sides, self.health, self.host)

    async def proof_document(self, _request: Request) -> Response:
        """Prove now, and give the result as JSON."""
        return Json(proof_document(await prove(self.sides)), headers={"cache-control": "no-store"})


def proof_document(proof: Proof) -> dict[str, Any]:
    """Show a proof as programs read it."""
    return {
        "agrees": proof.agrees,
        "lag_events": proof.lag_events,
        "checks": [
            {
                "name": check.name,
                "promise": check.promise,
                "holds": check.holds,
                "compared": check.compared,
                "differences": check.differences,
            }
            for check in proof.checks
        ],
    }
