"""One purchase, one trace: from the shop's door to the pushed line, decided once, and never with a card in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from codebank.bank.test_cards import TEST_CARDS
from codebank.errors import CodebankError
from codebank.runtime.watch.telemetry import JsonFormatter
from codebank.runtime.watch.tracer import open_tracer
from codebank.runtime.watch.tracing import OFF, current, is_sampled, trace_id_of
from codebank.wire import new_id
from tests.conftest import Databases
from tests.system import System, free_port, running_system
from tests.test_payment import browser as browser
from tests.test_payment import buy_in_the_browser, open_statement

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
#: Who records what of a purchase behind the shop's door, in its order; each is below the one before.
CHAIN = [
    ("checkout", "call Authorize"),
    ("bank", "answer Authorize"),
    ("relay", "ship"),
    ("projector", "store"),
    ("statement", "push"),
]


@dataclass
class Collector:
    """Takes spans as an OpenTelemetry collector does."""

    address: str = ""
    spans: list[dict[str, Any]] = field(default_factory=list)

    def named(self, role: str, name: str) -> list[dict[str, Any]]:
        """Give the spans that a role recorded under a name."""
        return [span for span in self.spans if (span["role"], span["name"]) == (role, name)]

    def take(self, body: bytes) -> None:
        """Read what a process sent."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {item.key: item.value.string_value for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    found = {item.key: item.value for item in span.attributes}
                    self.spans.append(
                        {
                            "role": told["service.name"].removeprefix("codebank-"),
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                            "span": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "start": span.start_time_unix_nano,
                            "end": span.end_time_unix_nano,
                            "attributes": found,
                        }
                    )


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Give a collector on a free port."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            made.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def buy(system: System, outcome: str = "approved", **headers: str) -> dict[str, Any]:
    """Buy one thing, and give the order as it ended."""
    card = next(card for card in TEST_CARDS if card.outcome == outcome)
    body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card.body}
    async with system.shop() as shop:
        placed = await shop.post("/api/orders", json=body, headers={"idempotency-key": str(new_id()), **headers})
        async with asyncio.timeout(20):
            while True:
                order: dict[str, Any] = (await shop.get(f"/api/orders/{placed.json()['id']}")).json()
                if order["status"] not in {"pending", "processing"}:
                    return order
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def open_page(system: System) -> Any:
    """Keep a statement's page open, and tell when a line was pushed to it."""
    pushed = asyncio.Event()

    async def read(browser: httpx.AsyncClient) -> None:
        async with browser.stream("GET", "/live?after=0", timeout=60) as answer:
            async for line in answer.aiter_lines():
                if line == "event: lines":
                    pushed.set()

    async with system.statement() as browser:
        reading = asyncio.create_task(read(browser))
        try:
            yield pushed
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading


async def test_a_purchase_is_one_trace_from_the_shops_door_to_the_pushed_line(
    databases: Databases, collector: Collector
) -> None:
    async with running_system(databases, otlp=collector.address, trace_ratio="1") as system:
        async with open_page(system) as pushed:
            await asyncio.wait_for(pushed.wait(), 20)  # what was there before
            pushed.clear()
            order = await buy(system)
            await asyncio.wait_for(pushed.wait(), 20)
            async with asyncio.timeout(20):
                while not collector.named("statement", "push"):
                    await asyncio.sleep(0.05)
        await system.proven()

    assert order["status"] == "paid"
    check_the_chain(collector, "POST /api/orders", order["payment_id"])


@pytest.mark.browser
async def test_a_click_in_a_browser_is_one_trace_to_the_open_statement(
    databases: Databases, collector: Collector, browser: Browser
) -> None:
    async with running_system(databases, otlp=collector.address, trace_ratio="1") as system:
        statement = await open_statement(browser, system)
        shop = await browser.new_page(locale="pt-BR")
        await buy_in_the_browser(shop, system, TEST_CARDS[0].number)
        await statement.wait_for_selector("#lines .line.fresh")
        async with asyncio.timeout(20):
            while not collector.named("statement", "push"):
                await asyncio.sleep(0.05)
        async with system.shop() as api:
            order = (await api.get(f"/api/orders/{shop.url.rpartition('/')[2]}")).json()
        await system.proven()

    assert order["status"] == "paid"
    check_the_chain(collector, "POST /payment", order["payment_id"])


def check_the_chain(collector: Collector, door: str, payment_id: str) -> None:
    """Check that a purchase's spans are one trace, each below the one before it, in the order of time."""
    chain = []
    for role, name in [("checkout", door), *CHAIN]:
        assert len(collector.named(role, name)) == 1, (role, name)
        chain.append(collector.named(role, name)[0])
    assert len({span["trace"] for span in chain}) == 1
    assert chain[0]["parent"] == ""
    # Shipping, storing and pushing go on from where the event was committed, each from the one before it.
    assert [span["parent"] for span in chain[1:]] == [span["span"] for span in chain[:-1]]
    assert [span["start"] for span in chain] == sorted(span["start"] for span in chain)
    commit = collector.named("bank", "commit")[0]
    assert commit["parent"] == chain[2]["span"]
    assert chain[2]["start"] <= commit["start"] <= commit["end"] <= chain[2]["end"]
    assert commit["attributes"]["codebank.payment_id"].string_value == payment_id
    assert chain[4]["attributes"]["messaging.kafka.offset"].int_value >= 0
    within = [span for span in collector.spans if span["trace"] == chain[0]["trace"]]
    assert {span["parent"] for span in within if span["parent"]} <= {span["span"] for span in within}


async def test_a_refused_purchase_is_traced_too_and_no_span_tells_of_a_card(
    databases: Databases, collector: Collector
) -> None:
    async with running_system(databases, otlp=collector.address, trace_ratio="1") as system:
        declined = await buy(system, "limit_exceeded")
        await buy(system)
        await system.proven()
        secrets = [system.settings.merchant_key, system.settings.operator_key, system.settings.vault_key]

    assert declined["status"] == "declined"
    assert len({span["trace"] for span in collector.named("projector", "store")}) == 2
    said = repr(collector.spans)
    for card in TEST_CARDS:
        assert card.number not in said
        assert card.number[-8:] not in said
    assert [secret for secret in secrets if secret in said] == []
    assert "@" not in said


async def test_what_is_not_sampled_makes_no_span_and_leaves_no_mark(databases: Databases, collector: Collector) -> None:
    async with running_system(databases, otlp=collector.address, trace_ratio="0") as system:
        order = await buy(system, traceparent=SAMPLED)
        proof = await system.proven()
        connection = await databases.connect("log")
        headers = [row["headers"] for row in await connection.fetch("select headers from record")]
        await connection.close()

    assert order["status"] == "paid"
    assert proof.agrees
    assert collector.spans == []  # a stranger's word decides nothing
    assert not any("traceparent" in json.dumps(one, default=str) for one in headers)


async def test_a_collector_that_is_away_harms_nobody(databases: Databases) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    async with running_system(databases, otlp=away, trace_ratio="1") as system:
        order = await buy(system)
        proof = await system.proven()

    assert order["status"] == "paid"
    assert proof.agrees


def test_without_an_address_opentelemetry_is_not_even_loaded() -> None:
    code = (
        "import sys\nfrom codebank.runtime.watch.tracer import open_tracer\nimport codebank.roles\n"
        "tracer = open_tracer('bank', '', '1', 'x')\n"
        "with tracer.span('a', None) as span:\n    assert span.traceparent == ''\n"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "False"


@pytest.mark.parametrize("ratio", ["2", "-0.1", "often", "nan", ""])
def test_a_share_that_is_none_is_refused(ratio: str) -> None:
    with pytest.raises(CodebankError, match="CODEBANK_TRACE_RATIO"):
        open_tracer("bank", "", ratio, "x")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(CodebankError, match="CODEBANK_OTLP"):
        open_tracer("bank", "jaeger:4318", "1", "x")


@pytest.mark.parametrize(
    "text",
    [
        "", "00", SAMPLED[:-1], SAMPLED + "0", SAMPLED.upper(), SAMPLED.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01", SAMPLED + "\n",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_or_says_no_is_not_followed(text: str) -> None:
    assert not is_sampled(text)
    assert is_sampled(SAMPLED)


def test_a_log_line_names_its_trace() -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "odd", None, None)
    token = current.set(SAMPLED)
    traced = json.loads(JsonFormatter("bank").format(record))
    current.reset(token)
    plain = json.loads(JsonFormatter("bank").format(record))

    assert traced["trace_id"] == trace_id_of(SAMPLED) == "0af7651916cd43dd8448eb211c80319c"
    assert "trace_id" not in plain
    assert not OFF.is_on
