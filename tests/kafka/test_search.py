"""Kafka Connect and our sink: each payment once in Elasticsearch, its newest state, whatever comes in between."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import shutil
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from codebank.errors import CodebankError
from codebank.eventlog.kafka.log import KafkaLog
from codebank.eventlog.kafka.topics import recreate_topics
from codebank.eventlog.log import EventLog, NewRecord
from codebank.events import PAYMENTS_TOPIC, SEARCH_DEAD_LETTERS_TOPIC, Event
from codebank.operate.dead_letters import dismiss_dead_letters, listed_dead_letters, replay_dead_letters
from codebank.runtime.web.peer import Peer, PeerError
from codebank.search.connect import CONNECTOR, apply_connectors, read_connectors, remove_search, rewind
from codebank.search.index import INDEX, SearchIndex
from codebank.settings import Settings
from codebank.statement.dead_letters import DeadLetter, dead_letter_of
from tests.conftest import Databases, settings_for
from tests.kafka.certificates import make_certificates
from tests.kafka.machine import Machine
from tests.search.kibana import fields_read, panel_queries
from tests.statement.desk import ANA, BIA, Story, payment_id, record_of

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(120, func_only=True)]


@dataclass
class Desk:
    """An empty log, the connector, and an empty index."""

    settings: Settings
    log: EventLog
    search: Peer

    async def append(self, *records: NewRecord | Event) -> None:
        writer = await self.log.open_writer(PAYMENTS_TOPIC)
        await writer.append([one if isinstance(one, NewRecord) else record_of(one) for one in records])
        await writer.close()

    async def documents(self) -> dict[str, dict[str, Any]]:
        await self.search.ask("POST", f"/{INDEX}/_refresh")
        answer = await self.search.ask("POST", f"/{INDEX}/_search", {"size": 1000, "version": True})
        return {hit["_id"]: {**hit["_source"], "_version": hit["_version"]} for hit in answer["hits"]["hits"]}

    async def documents_when(self, condition: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        async with asyncio.timeout(40):
            while not condition(found := await self.documents()):
                await asyncio.sleep(0.05)
        return found

    async def dead_letters(self, count: int) -> list[DeadLetter]:
        async with asyncio.timeout(40):
            while True:
                end = (await self.log.ends(SEARCH_DEAD_LETTERS_TOPIC)).get(0, 0)
                records = await self.log.scan(SEARCH_DEAD_LETTERS_TOPIC, 0, 0, 1000) if end else []
                if len(records) >= count:
                    return [dead for dead in map(dead_letter_of, records) if dead is not None]
                await asyncio.sleep(0.05)


@pytest.fixture
async def desk(everything: Machine) -> AsyncIterator[Desk]:
    settings = everything.settings
    await remove_search(settings)
    await recreate_topics(settings)
    await apply_connectors(settings, print)
    log = KafkaLog(settings)
    yield Desk(settings, log, Peer(settings.elasticsearch))
    await log.close()


async def test_applying_is_safe_to_repeat_and_changes_what_differs(desk: Desk) -> None:
    again = await apply_connectors(desk.settings, print)
    other = await apply_connectors(
        replace(desk.settings, elasticsearch=desk.settings.elasticsearch.replace("127.0.0.1", "localhost")), print
    )

    assert [(one.name, one.did, one.tasks) for one in again] == [(CONNECTOR, "as it should be", 2)]
    assert [one.did for one in other] == ["changed"]
    async with asyncio.timeout(20):
        while not (await read_connectors(desk.settings))[0].runs:
            await asyncio.sleep(0.05)


async def test_a_wrong_configuration_is_refused_in_words(desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(desk.settings.deploy, tmp_path / "deploy")
    file = tmp_path / "deploy" / "connect" / "connectors" / "payments.json"
    document = json.loads(file.read_text())
    document["config"]["key.ignore"] = "true"
    file.write_text(json.dumps(document))

    with pytest.raises(CodebankError, match=r"key\.ignore"):
        await apply_connectors(replace(desk.settings, deploy=tmp_path / "deploy"), print)
    with pytest.raises(CodebankError, match="CODEBANK_CONNECT"):
        await apply_connectors(replace(desk.settings, connect=""), print)
    with pytest.raises(CodebankError, match="does not answer"):
        await apply_connectors(replace(desk.settings, connect="http://127.0.0.1:1"), print)


async def test_a_payment_is_a_document_of_what_may_be_seen_and_nothing_else(desk: Desk) -> None:
    story = Story().opened().paid(5_490).declined(9_000)
    await desk.append(*story.events)

    found = await desk.documents_when(lambda documents: len(documents) == 2)

    paid = found[str(payment_id(ANA, 2))]
    mapping = json.loads((desk.settings.deploy / "search" / "payments.json").read_text())["template"]["mappings"]
    assert set(paid) - {"_version"} == set(mapping["properties"])
    assert (paid["amount_minor"], paid["status"], paid["sequence"], paid["_version"]) == (5_490, "approved", 2, 2)
    assert paid["card_masked"] == "•••• 0018"
    assert "Ana Souza" not in json.dumps(found, ensure_ascii=False)
    assert found[str(payment_id(ANA, 3))]["decline_code"] == "limit_exceeded"
    real = (await desk.search.ask("GET", f"/{INDEX}/_mapping"))[INDEX]["mappings"]
    assert real["properties"] == mapping["properties"]


def _beans(machine: Machine, pattern: str) -> list[dict[str, float]]:
    """Read what Connect's JVM tells of itself: one dictionary per bean."""
    worker = machine.processes["connect"]
    assert worker.running is not None
    java = Path(worker.child.argv[0])
    reader = [str(java), "--add-modules", "jdk.attach", str(Path(__file__).with_name("Beans.java"))]
    said = subprocess.run([*reader, str(worker.running.pid), pattern], capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = {}
    for line in said.stdout.splitlines():
        bean, attribute, value = line.split("\t")
        found.setdefault(bean, {})[attribute] = float(value)
    return list(found.values())


async def test_each_tasks_counts_are_among_connects_own_metrics(desk: Desk, everything: Machine) -> None:
    story, other = Story().opened().paid(1).paid(2), Story(BIA).opened().paid(3)
    await desk.append(*story.events, *other.events)
    await desk.documents_when(lambda documents: len(documents) == 3)

    tasks = await asyncio.to_thread(_beans, everything, "kafka.connect:type=plugins,connector=*,task=*")

    assert len(tasks) == 2
    assert sum(task["documents-written-total"] for task in tasks) == 3
    assert {task["records-refused-total"] for task in tasks} == {0}


async def test_trap_b23_an_older_state_delivered_again_never_overwrites_a_newer_one(desk: Desk) -> None:
    story = Story().opened().paid(5_490)
    story.returned(2, 5_490)
    await desk.append(*story.events)
    await desk.documents_when(lambda documents: documents.get(str(payment_id(ANA, 2)), {}).get("sequence") == 3)

    await desk.append(story.events[1], *Story(BIA).opened().paid(1).events)
    found = await desk.documents_when(lambda documents: str(payment_id(BIA, 2)) in documents)
    await rewind(desk.settings, dict.fromkeys(range(12), 0))
    await desk.append(*Story(BIA).opened().paid(1).paid(2).events[2:])
    again = await desk.documents_when(lambda documents: str(payment_id(BIA, 3)) in documents)

    for documents in (found, again):
        document = documents[str(payment_id(ANA, 2))]
        assert (document["status"], document["sequence"], document["_version"]) == ("refunded", 3, 3)
    assert len(again) == 3


async def test_trap_b26_what_cannot_be_written_goes_to_the_dead_letters_and_its_neighbours_arrive(desk: Desk) -> None:
    story = Story().opened().paid(1).paid(2).paid(3)
    good = record_of(story.events[1])
    bad_amount = NewRecord(good.key, good.value.replace(b'"amount_minor":1,', b'"amount_minor":"one",'), good.headers)
    bad_amount = NewRecord(
        good.key, bad_amount.value.replace(str(payment_id(ANA, 2)).encode(), b"00000000-0000-0000-0000-0000000000bb"),
        good.headers,
    )  # fmt: skip
    no_version = NewRecord(good.key, good.value, {"ce_payment": "true"})
    wrong_version = NewRecord(good.key, good.value, {"ce_payment": "true", "ce_sequence": "first"})
    no_json = NewRecord(good.key, b"\xff not json", {"ce_payment": "true", "ce_sequence": "1"})
    no_payment = NewRecord(good.key, b'{"payment": 7}', {"ce_payment": "true", "ce_sequence": "1"})
    others = NewRecord(good.key, b'{"hello": 1}', {})
    await desk.append(story.events[1], bad_amount, no_version, wrong_version, no_json, no_payment, others)
    await desk.append(*story.events[2:])

    found = await desk.documents_when(lambda documents: len(documents) == 3)
    put_aside = await desk.dead_letters(5)

    assert sorted(document["amount_minor"] for document in found.values()) == [1, 2, 3]
    reasons = {dead.value: dead.reason for dead in put_aside}
    assert "Elasticsearch refuses it" in reasons[bad_amount.value]
    assert {dead.reason for dead in put_aside if dead.value == good.value} == {
        "the record has no header ce_sequence", "header ce_sequence is no whole number: first",
    }  # fmt: skip
    assert {dead.value for dead in put_aside} == {bad_amount.value, good.value, no_json.value, no_payment.value}
    (state,) = await read_connectors(desk.settings)
    assert state.runs


def with_more(record: NewRecord) -> NewRecord:
    """Add fields of every shape, as a newer bank may."""
    event = json.loads(record.value)
    more = {"rate": 1.5, "when": None, "parts": [{"number": 1}, []], "deep": {"empty": {}, "list": [1, "two"]}}
    event |= {"more": more, "list": []}
    event["payment"] |= more
    return replace(record, value=json.dumps(event).encode())


async def test_trap_c01_what_a_newer_bank_says_of_a_payment_is_a_document_and_no_dead_letter(desk: Desk) -> None:
    story = Story().opened().told("codebank.payment.disputed", "in_dispute", 700, currency="XTS", captured_minor=300)
    story.told("codebank.payment.declined", "declined", 800, decline_code="moon_phase", version=7)
    story.account_told("codebank.account.frozen", status="frozen").paid(900)
    records = [record_of(event) for event in story.events]
    await desk.append(records[0], *map(with_more, records[1:3]), *records[3:])

    found = await desk.documents_when(lambda documents: len(documents) == 3)

    told = [found[str(payment_id(ANA, number))] for number in (2, 3, 5)]
    names = ("status", "decline_code", "currency", "amount_minor", "captured_minor", "version")
    assert [tuple(document[name] for name in names) for document in told] == [
        ("in_dispute", None, "XTS", 700, 300, 1), ("declined", "moon_phase", "BRL", 800, 0, 7),
        ("approved", None, "BRL", 900, 900, 1),
    ]  # fmt: skip
    assert set(told[0]) == set(told[2])
    assert set((await desk.log.ends(SEARCH_DEAD_LETTERS_TOPIC)).values()) <= {0}


async def test_an_index_of_the_release_before_is_told_of_the_fields_that_came_since(desk: Desk) -> None:
    mapping = json.loads((desk.settings.deploy / "search" / "payments.json").read_text())["template"]["mappings"]
    older = {name: kind for name, kind in mapping["properties"].items() if name not in ("captured_minor", "version")}
    await remove_search(desk.settings)
    await desk.search.ask("DELETE", "/_index_template/codebank-payments")
    await desk.search.ask("PUT", f"/{INDEX}", {"mappings": {"dynamic": False, "properties": older}})

    await apply_connectors(desk.settings, print)

    assert (await desk.search.ask("GET", f"/{INDEX}/_mapping"))[INDEX]["mappings"]["properties"] == mapping[
        "properties"
    ]


async def test_nothing_is_ever_deleted(desk: Desk) -> None:
    story = Story().opened().paid(5)
    await desk.append(*story.events)
    await desk.documents_when(lambda documents: len(documents) == 1)

    key = str(payment_id(ANA, 2)).encode()
    await desk.append(NewRecord(key, b"", {"ce_payment": "true", "ce_sequence": "9"}))
    await desk.append(*Story(BIA).opened().paid(1).events)

    found = await desk.documents_when(lambda documents: len(documents) == 2)
    assert str(payment_id(ANA, 2)) in found


async def test_every_kibana_panel_finds_its_fields_and_something_to_show(desk: Desk) -> None:
    ana, bia = Story(ANA).opened(), Story(BIA).opened()
    for number in range(20):
        ana.paid(1_000 + 700 * number, parcelas=1 + number % 6)
        bia.declined(300 + number) if number % 3 else bia.paid(50 * number + 1, merchant_name=f"Loja {number}")
    ana.returned(2, 1_000)
    await desk.append(*ana.events, *bia.events)
    await desk.documents_when(lambda documents: len(documents) == 40)
    known = json.loads((desk.settings.deploy / "search" / "payments.json").read_text())["template"]["mappings"]

    panels = panel_queries()

    assert len(panels) >= 10
    for title, (index, body) in panels.items():
        assert fields_read(body) <= set(known["properties"]), title
        answer = await desk.search.ask("POST", f"/{index}/_search", body)
        assert answer["timed_out"] is False
        assert _has_figures(answer.get("aggregations", {})), f"{title} shows nothing: {answer}"


def _has_figures(aggregations: Any) -> bool:
    if isinstance(aggregations, dict):
        return any(
            (name in ("value", "doc_count") and isinstance(value, int | float) and value > 0) or _has_figures(value)
            for name, value in aggregations.items()
        )
    return isinstance(aggregations, list) and any(map(_has_figures, aggregations))


async def test_totals_are_those_of_the_documents(desk: Desk) -> None:
    story = Story().opened().paid(100).paid(250).declined(9)
    story.returned(2, 100)
    await desk.append(*story.events)
    await desk.documents_when(
        lambda documents: sorted(one["status"] for one in documents.values()) == ["approved", "declined", "refunded"]
    )
    index = SearchIndex.of(desk.settings)
    assert index is not None

    totals = await index.totals()
    states = [state async for state in index.states(sorted({day for day, _ in totals}))]

    sums = {(status, one.count, one.amount_minor, one.refunded_minor) for (_, status), one in totals.items()}
    assert sums == {("approved", 1, 250, 0), ("declined", 1, 9, 0), ("refunded", 1, 100, 100)}
    assert sorted(state["sequence"] for state in states) == [3, 4, 5]


@contextlib.contextmanager
def guarded(target: str, folder: Path, password: str) -> Iterator[tuple[str, Path]]:
    """Stand before Elasticsearch with TLS and a sign-in, which the node of the tests does not have."""
    certificates = make_certificates(folder)
    wanted = "Basic " + base64.b64encode(f"codebank:{password}".encode()).decode()

    class Guard(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("authorization") != wanted:
                return self._answer(401, b'{"error": "who are you"}')
            request = urllib.request.Request(target + self.path, body, {"content-type": self.headers["content-type"]})
            try:
                with urllib.request.urlopen(request) as answer:
                    self._answer(answer.status, answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    self._answer(error.code, error.read())
            return None

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_address[1]}", certificates.authority
    finally:
        server.shutdown()
        server.server_close()


async def test_the_sink_signs_in_over_tls_and_a_refusal_is_told(desk: Desk) -> None:
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    connect = Peer(desk.settings.connect)
    path = f"/connectors/{CONNECTOR}"
    with guarded(desk.settings.elasticsearch, folder, "right") as (url, authority):
        config = await connect.ask("GET", f"{path}/config")
        secured = {
            **config,
            "connection.url": url,
            "connection.username": "codebank",
            "connection.password": "right",
            "elastic.https.ssl.truststore.location": str(authority),
        }
        await connect.ask("PUT", f"{path}/config", secured)
        await desk.append(*Story().opened().paid(5).events)
        await desk.documents_when(lambda documents: len(documents) == 1)

        await connect.ask("PUT", f"{path}/config", {**secured, "connection.password": "wrong"})
        await desk.append(*Story(BIA).opened().paid(6).events)
        async with asyncio.timeout(40):
            while not (state := (await read_connectors(desk.settings))[0]).trouble:
                await asyncio.sleep(0.05)
        status = await connect.ask("GET", f"{path}/status")
    assert "FAILED" in state.tasks
    assert any("refuses the request with 401" in task.get("trace", "") for task in status["tasks"])

    # Applying brings back what the file says, and the task goes on where it stopped.
    (applied,) = await apply_connectors(desk.settings, print)
    assert applied.did == "changed"
    await desk.documents_when(lambda documents: len(documents) == 2)
    shutil.rmtree(folder)


async def test_a_failed_task_is_started_again_by_applying(desk: Desk) -> None:
    connect, path = Peer(desk.settings.connect), f"/connectors/{CONNECTOR}"
    config = await connect.ask("GET", f"{path}/config")
    # As after an outage that was longer than the attempts: nobody starts the task again by itself.
    await connect.ask("PUT", f"{path}/config", {**config, "connection.url": "http://127.0.0.1:1", "max.retries": "1"})
    await desk.append(*Story().opened().paid(5).events)
    async with asyncio.timeout(40):
        while "FAILED" not in (await read_connectors(desk.settings))[0].tasks:
            await asyncio.sleep(0.05)

    await apply_connectors(desk.settings, print)

    assert len(await desk.documents_when(lambda documents: len(documents) == 1)) == 1


#: What keeps an index from being written to, and what ends it: method, path, document.
Call = tuple[str, str, dict[str, Any] | None]
WRITE, CLUSTER = f"/{INDEX}/_settings", "/_cluster/settings"
HARMS: dict[str, tuple[list[Call], list[Call]]] = {
    "closed": ([("POST", f"/{INDEX}/_close", None)], [("POST", f"/{INDEX}/_open", None)]),
    "blocked": (
        [("PUT", WRITE, {"index.blocks.write": True})], [("PUT", WRITE, {"index.blocks.write": None})],
    ),
    "read only": (
        [("PUT", WRITE, {"index.blocks.read_only": True})], [("PUT", WRITE, {"index.blocks.read_only": None})],
    ),
    "of a full disk": (
        [("PUT", WRITE, {"index.blocks.read_only_allow_delete": True})],
        [("PUT", WRITE, {"index.blocks.read_only_allow_delete": None})],
    ),
    "of a cluster that is read only": (
        [("PUT", CLUSTER, {"persistent": {"cluster.blocks.read_only": True}})],
        [("PUT", CLUSTER, {"persistent": {"cluster.blocks.read_only": None}})],
    ),
    "missing, and not to be made": (
        [("PUT", CLUSTER, {"persistent": {"action.auto_create_index": "false"}}), ("DELETE", f"/{INDEX}", None)],
        # In this order: Connect makes the index itself as soon as it may.
        [("PUT", f"/{INDEX}", None), ("PUT", CLUSTER, {"persistent": {"action.auto_create_index": None}})],
    ),
}  # fmt: skip


async def test_a_record_as_large_as_its_topic_takes_is_a_dead_letter_too(desk: Desk) -> None:
    story = Story().opened().paid(1)
    good = record_of(story.events[1])
    large = replace(good, value=b"\xff" + random.Random(1).randbytes(900_000))
    reason_and_all = {f"x{number}": "y" * 1_000 for number in range(140)}
    await desk.append(replace(large, headers={**good.headers, **reason_and_all}), good)

    (dead,) = await desk.dead_letters(1)

    assert dead.value == large.value
    assert len(await desk.documents_when(lambda documents: len(documents) == 1)) == 1


@pytest.mark.parametrize("state", HARMS)
async def test_trap_b26_an_index_that_takes_nothing_for_a_while_makes_no_dead_letters(
    desk: Desk, everything: Machine, state: str
) -> None:
    harm, heal = HARMS[state]
    for method, path, document in harm:
        await desk.search.ask(method, path, document)
    try:
        story = Story().opened().paid(1).paid(2)
        good = record_of(story.events[1])
        poison = NewRecord(good.key, good.value.replace(b'"amount_minor":1,', b'"amount_minor":"one",'), good.headers)
        await desk.append(*story.events, poison, *Story(BIA).opened().paid(3).events)
        async with asyncio.timeout(40):
            while not sum(
                task["attempts-failed-total"]
                for task in await asyncio.to_thread(_beans, everything, "kafka.connect:type=plugins,connector=*,task=*")
            ):
                pass
        letters = (await desk.log.ends(SEARCH_DEAD_LETTERS_TOPIC)).get(0, 0)
        (connector,) = await read_connectors(desk.settings)
    finally:
        for method, path, document in heal:
            await desk.search.ask(method, path, document)

    found = await desk.documents_when(lambda documents: len(documents) == 3)
    put_aside = await desk.dead_letters(1)

    assert letters == 0
    assert connector.runs
    assert sorted(document["amount_minor"] for document in found.values()) == [1, 2, 3]
    # What the document itself causes is one still, once.
    assert [dead.value for dead in put_aside] == [poison.value]


async def test_a_replayed_letter_of_the_search_says_what_the_connector_makes_of_it(
    desk: Desk, databases: Databases
) -> None:
    servers = {name: getattr(desk.settings, name) for name in ("kafka", "connect", "elasticsearch")}
    both = settings_for(databases, **servers)
    story = Story().opened().paid(1)
    good = record_of(story.events[1])
    await desk.append(good, NewRecord(good.key, b"\xff not json", good.headers), good)
    (dead,) = await desk.dead_letters(1)

    (again,) = await replay_dead_letters(both, [])
    listed = await listed_dead_letters(both)

    assert (again.origin, again.is_applied) == (dead.origin, False)
    assert [(one["origin"], one["reader"], one["replayed_at"]) for one in listed] == [
        (str(dead.origin), "search", None)
    ]
    # The connector put it aside twice; it is one letter.
    assert (await desk.log.ends(SEARCH_DEAD_LETTERS_TOPIC))[0] > 1

    assert await dismiss_dead_letters(both, [str(dead.origin)], "another program's") == 1
    assert await replay_dead_letters(both, []) == []


async def test_the_index_refuses_a_write_that_is_no_payment(desk: Desk) -> None:
    with pytest.raises(PeerError) as refused:
        await desk.search.ask("PUT", f"/{INDEX}/_doc/x", {"amount_minor": "one"})
    assert refused.value.status == 400
