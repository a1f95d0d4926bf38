"""The control room's pages and its JSON: the flow as it is now, and the last proof."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from codebank.audit.control.event_finder import EventFinder
from codebank.audit.control.flow import Flow, read_flow
from codebank.audit.control.journey import Journey, bars_of
from codebank.audit.control.journey_reader import JourneyReader
from codebank.audit.control.naming import Naming
from codebank.audit.control.rates import Rates, count_text, rate_text
from codebank.audit.control.under_way import oldest_under_way
from codebank.audit.proof.prove import prove
from codebank.audit.proof.reconcile import DIFFERENCES_SHOWN, Difference, Proof
from codebank.audit.store.sides import SIDE_ERRORS, Sides, database_sizes
from codebank.errors import Code, CodebankError, Violation, invalid
from codebank.money import Money
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.web.http import Json
from codebank.runtime.web.pages import Pages
from codebank.wire import utc_now

log = logging.getLogger(__name__)

#: Pause between two proofs. Each reads everything, so the longer one takes the longer the pause: a twentieth of the
#: time is proving, whatever there is to prove; but never so long that the last one says nothing of now any more.
_PROOF_SECONDS = 10
_PROOF_SECONDS_MAX = 300
_PAUSES_PER_PROOF = 19
_ID_LETTERS = 36
#: A proof that is older says nothing of now; the alert `ProofStale` waits as long.
_FRESH_SECONDS = 600
#: Values of a difference that have words of their own.
_SPOKEN = frozenset({"status", "other_status", "side"})


def pause_after(proof_seconds: float) -> float:
    """Say how long to wait after a proof that took so long."""
    return min(max(_PROOF_SECONDS, proof_seconds * _PAUSES_PER_PROOF), _PROOF_SECONDS_MAX)


@dataclass
class ControlRoom:
    """Shows the flow, and proves again and again."""

    sides: Sides
    pages: Pages
    telemetry: Telemetry
    host: str
    #: Role → its health port.
    health: Mapping[str, int]
    finder: EventFinder
    _rates: Rates = field(default_factory=Rates, init=False)
    _proof: Proof | None = field(default=None, init=False)
    _proved_at: datetime | None = field(default=None, init=False)
    #: On the clock that nobody sets.
    _fresh_until_seconds: int = field(default=0, init=False)

    def routes(self) -> list[Route]:
        """List the routes."""
        return [
            Route("/", self.page, methods=["GET"]),
            Route("/now", self.now, methods=["GET"]),
            Route("/payments", self.find, methods=["GET"]),
            Route("/payments/{id}", self.payment_page, methods=["GET"]),
            Route("/payments/{id}/now", self.payment_now, methods=["GET"]),
            Route("/api/payments/{id}", self.payment_document, methods=["GET"]),
            Route("/api/flow", self.flow_document, methods=["GET"]),
            Route("/api/proof", self.proof_document, methods=["GET"]),
        ]

    async def keep_proving(self) -> None:
        """Prove until cancelled, and set the metrics that alerts watch.

        A side that is away is waited for, and the role stays ready meanwhile: its pages show what the others say, and
        the age of the last proof tells the rest.
        """
        while True:
            started, pause_seconds = time.perf_counter(), float(_PROOF_SECONDS)
            try:
                self._proof, self._proved_at = await prove(self.sides), utc_now()
                self._fresh_until_seconds = int(time.monotonic()) + _FRESH_SECONDS
                self.telemetry.gauge("codebank_proof_seconds").set(time.perf_counter() - started)
                self._show(self._proof, self._proved_at)
                oldest_seconds = await oldest_under_way(self.sides, utc_now())
                self.telemetry.gauge("codebank_proof_oldest_under_way_seconds").set(oldest_seconds)
                for database, size in (await database_sizes(self.sides)).items():
                    self.telemetry.gauge("codebank_database_bytes", database).set(size)
                pause_seconds = pause_after(time.perf_counter() - started)
            except SIDE_ERRORS as error:
                self._fresh_until_seconds = 0
                log.warning("the proof waits for a side: %s: %s", type(error).__name__, error)
            await asyncio.sleep(pause_seconds)

    def _show(self, proof: Proof, proved_at: datetime) -> None:
        self.telemetry.gauge("codebank_proof_timestamp_seconds").set(proved_at.timestamp())
        self.telemetry.gauge("codebank_proof_lag_events").set(proof.lag_events)
        for check in proof.checks:
            self.telemetry.gauge("codebank_proof_checks", check.name).set(int(check.holds))
            if not check.holds:
                log.error("the proof failed: %s: %s", check.name, check.differences[0])

    async def _values(self, request: Request) -> dict[str, Any]:
        flow = await self._flow()
        language = self.pages.language(request)
        rates = self._rates.tenths()
        return {
            "flow": flow,
            "rates": {name: rate_text(tenths, language) for name, tenths in rates.items()},
            "count": partial(count_text, language=language),
            "naming": Naming(self.pages.words, language),
            "links": self.links(),
            "difference_text": partial(self._difference, language),
            "proof": self._proof,
            "proved_at": self._proved_at,
            "is_fresh": time.monotonic() < self._fresh_until_seconds,
            "differences_shown": DIFFERENCES_SHOWN,
            "money": Money,
        }

    async def page(self, request: Request) -> Response:
        return self.pages.render(request, "control.html", await self._values(request))

    def links(self) -> list[tuple[str, str]]:
        """List the pages of other programs that are configured, by name."""
        settings = self.sides.settings
        named = (("Grafana", settings.grafana_url), ("Kibana", settings.kibana_url), ("Jaeger", settings.jaeger_url))
        return [(name, address) for name, address in named if address]

    async def now(self, request: Request) -> Response:
        """Give the part of the page that changes."""
        html = self.pages.block(request, "control.html", "now", await self._values(request))
        return HTMLResponse(html, headers={"cache-control": "no-store"})

    async def flow_document(self, _request: Request) -> Response:
        """Give the flow as JSON."""
        flow = await self._flow()
        document = msgspec.to_builtins(flow) | {"rates_tenths_per_second": self._rates.tenths()}
        return Json(document, headers={"cache-control": "no-store"})

    async def _flow(self) -> Flow:
        flow = await read_flow(self.sides, self.health, self.host)
        self._rates.add(time.monotonic_ns() // 1_000_000, flow.counts())
        return flow

    def _difference(self, language: str, difference: Difference) -> str:
        values: dict[str, object] = {}
        for name, value in difference.values.items():
            if name.endswith("_minor") and type(value) is int:
                values[name.removesuffix("_minor")] = Money(value, difference.currency)
            elif name in _SPOKEN:
                values[name] = Naming(self.pages.words, language).spoken(str(value).replace(" ", "_")).text
            else:
                values[name] = value
        return self.pages.words.say(language, f"difference.{difference.name}", **values)

    async def find(self, request: Request) -> Response:
        """Go to the payment that was asked for in the find box."""
        text = request.query_params.get("id", "").strip()
        if _read_id(text) is None:
            return self._malformed(request, text)
        return RedirectResponse(f"/payments/{quote(text, safe='')}", status_code=303)

    async def payment_page(self, request: Request) -> Response:
        """Show one payment's journey."""
        text = request.path_params["id"]
        if (payment_id := _read_id(text)) is None:
            return self._malformed(request, text)
        try:
            journey = await self._journey(payment_id)
        except CodebankError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return self.pages.render(request, "missing.html", {"asked": text, "problem": "unknown"}, status=404)
        return self.pages.render(request, "payment.html", self._journey_values(request, journey))

    async def payment_now(self, request: Request) -> Response:
        """Give the part of a payment's page that changes."""
        journey = await self._journey(_id_of(request))
        html = self.pages.block(request, "payment.html", "now", self._journey_values(request, journey))
        return HTMLResponse(html, headers={"cache-control": "no-store"})

    async def payment_document(self, request: Request) -> Response:
        """Give one payment's journey as JSON."""
        journey = await self._journey(_id_of(request))
        document = msgspec.to_builtins(journey) | {"is_complete": journey.is_complete}
        return Json(document, headers={"cache-control": "no-store"})

    async def _journey(self, payment_id: UUID) -> Journey:
        return await JourneyReader(self.sides, self.finder).read(payment_id)

    def _journey_values(self, request: Request, journey: Journey) -> dict[str, Any]:
        jaeger, language = self.sides.settings.jaeger_url, self.pages.language(request)
        return {
            "journey": journey,
            "bars": bars_of(journey),
            "count": partial(count_text, language=language),
            "naming": Naming(self.pages.words, language),
            "money": Money,
            "trace_url": f"{jaeger}/trace/{journey.trace_id}" if jaeger and journey.trace_id else "",
        }

    def _malformed(self, request: Request, text: str) -> Response:
        return self.pages.render(request, "missing.html", {"asked": text[:80], "problem": "malformed"}, status=422)

    async def proof_document(self, _request: Request) -> Response:
        """Prove now, and give the result as JSON."""
        try:
            proof = await prove(self.sides)
        except SIDE_ERRORS as error:
            raise CodebankError(
                Code.UNAVAILABLE, f"a side does not answer: {type(error).__name__}", retry_after_seconds=5
            ) from error
        return Json(proof.document(), headers={"cache-control": "no-store"})


def _read_id(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) == _ID_LETTERS else None
    except ValueError:
        return None


def _id_of(request: Request) -> UUID:
    found = _read_id(request.path_params["id"])
    if found is None:
        raise invalid(Violation("id", "must be the id of a payment or an order, such as 01890000-…"))
    return found
