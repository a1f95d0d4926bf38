"""Documents of the search index that nobody here understands: named by the proof, and no end of a journey."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest

from codebank.audit.control.event_finder import EventFinder
from codebank.audit.control.journey_reader import JourneyReader
from codebank.audit.proof.search import read_indexed
from codebank.audit.store.sides import open_sides
from codebank.settings import Settings
from tests.conftest import Databases
from tests.system import system_settings

pytestmark = pytest.mark.anyio


@contextlib.contextmanager
def index_of(*documents: dict[str, Any]) -> Iterator[str]:
    """Answer as Elasticsearch would that holds these documents of one day."""
    bucket = {
        "key": {"day": "2026-11-20", "status": "contested"}, "doc_count": 9,
        "amount": {"value": 1.0}, "refunded": {"value": 0.0},
    }  # fmt: skip
    hits = [{"_source": document, "sort": [number]} for number, document in enumerate(documents)]
    answer = {"id": "p", "aggregations": {"totals": {"buckets": [bucket]}}, "hits": {"hits": hits}}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def settings_of(databases: Databases, address: str) -> Settings:
    return system_settings(databases, elasticsearch=address)


async def test_documents_that_tell_of_no_payment_are_named_and_the_others_compared(databases: Databases) -> None:
    known = {"account_id": str(uuid4()), "payment_id": str(uuid4()), "status": "contested", "mood": "calm"}
    with index_of(known, {"payment_id": "x"}, {"status": 7}) as address:
        async with open_sides(settings_of(databases, address)) as sides:
            found = await read_indexed(sides)

    assert found is not None
    check = found.findings.check()
    assert [difference.name for difference in check.differences] == ["document", "document"]
    assert check.compared == 9


async def test_a_document_without_its_number_is_not_there_yet(databases: Databases) -> None:
    with index_of({"occurred_at": "2026-11-20T12:00:00+00:00", "sequence": None}) as address:
        async with open_sides(settings_of(databases, address)) as sides:
            assert await JourneyReader(sides, EventFinder(sides.log))._indexed(uuid4()) is None
