"""Every part of the whole system is killed under load, and the proof passes after each."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from confluent_kafka import Producer

from codebank.bank.test_cards import TEST_CARDS
from codebank.eventlog.log import PARTITIONS
from codebank.events import PAYMENTS_TOPIC
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.runtime.web.peer import Peer
from codebank.search.index import INDEX, SearchIndex
from tests.kafka.machine import Machine, until
from tests.kafka.system import Buyers, Onlookers, System, extra_projector, make_system, readers
from tests.test_payment import browser, buy_in_the_browser, open_statement

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["browser"]

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(300, func_only=True)]
BROKERS = ("kafka-1", "kafka-2", "kafka-3")


@pytest.fixture(scope="module")
def running(servers: Machine) -> Iterator[System]:
    servers.ensure(*BROKERS, "elasticsearch")
    servers.ensure("connect")
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    folder.chmod(0o711)
    system = make_system(folder, servers)
    try:
        system.start("--fresh", "--log", "kafka")
        yield system
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def system(running: System, everything: Machine) -> Iterator[System]:
    yield running
    # Whatever a test did, the next one begins with everything there.
    everything.ensure()


@pytest.mark.browser
async def test_a_purchase_in_a_browser_reaches_the_open_statement_and_elasticsearch(
    system: System, browser: Browser
) -> None:
    index = Peer(system.settings.elasticsearch)
    statement = await open_statement(browser, system)
    shop = await browser.new_page(locale="pt-BR")

    await buy_in_the_browser(shop, system, TEST_CARDS[0].number)
    await shop.wait_for_selector("[data-arrival].done")
    line = await statement.wait_for_selector("#lines .line.fresh")
    assert line is not None
    assert "89,90" in await line.inner_text()

    order = shop.url.rsplit("/", 1)[1].partition("?")[0]
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{system.settings.checkout_home()}/api/orders/{order}")
    payment_id = answer.json()["payment_id"]
    async with asyncio.timeout(30):
        while True:
            await index.ask("POST", f"/{INDEX}/_refresh")
            found = await index.ask("POST", f"/{INDEX}/_search", {"query": {"term": {"payment_id": payment_id}}})
            if found["hits"]["hits"]:
                break
            await asyncio.sleep(0.05)
    document = found["hits"]["hits"][0]["_source"]
    assert (document["amount_minor"], document["status"], document["card_masked"]) == (8_990, "approved", "•••• 0018")
    await asyncio.to_thread(system.proven)


def test_a_thousand_payments_and_five_parties_agree(system: System) -> None:
    with Buyers(system, count=12) as buyers:
        buyers.wait_for(1000, seconds=180)

    proof = system.proven()

    assert buyers.errors == []
    assert proof["parties"] == ["orders", "ledger", "log", "statement", "search index"]
    compared = {check["name"]: check["compared"] for check in proof["checks"]}
    assert compared["search"] == compared["statement"] == compared["moved"] >= 1000


def test_the_leader_of_a_partition_dies_under_load(system: System) -> None:
    with Buyers(system) as buyers:
        leader = system.flow()["log"]["partitions"][0]["leader"]
        victim = system.machine.processes[f"kafka-{leader}"]
        victim.kill()
        buyers.wait_for(150)
        until(
            lambda: system.flow()["log"] and leader in system.flow()["log"]["missing"], 90, "the dead broker is shown"
        )
        buyers.wait_for(50)
        system.machine.ensure(f"kafka-{leader}")
        buyers.wait_for(50)

    assert buyers.errors == []
    system.proven()
    until(lambda: all(len(one["in_sync"]) == 3 for one in system.flow()["log"]["partitions"]), 90, "it caught up")


def test_all_brokers_die_and_the_bank_goes_on(system: System) -> None:
    statement = f"http://127.0.0.1:{system.environment['CODEBANK_STATEMENT_PORT']}"
    with httpx.Client(base_url=statement, timeout=20) as browser, Buyers(system) as buyers:
        browser.post("/sign-in", data={"email": DEMO_EMAIL, "password": DEMO_PASSWORD})
        until(lambda: "está atrasado" not in browser.get("/").text, 60, "the statement is fresh")
        for name in BROKERS:
            system.machine.processes[name].kill()

        buyers.wait_for(100)
        until(lambda: (system.flow()["outbox"] or 0) > 50, 90, "the outbox grows")
        until(lambda: "está atrasado" in browser.get("/").text, 90, "the statement says that it is behind")
        assert system.flow()["log"] is None
        system.machine.ensure(*BROKERS)
        buyers.wait_for(50)
        until(lambda: "está atrasado" not in browser.get("/").text, 90, "the statement is fresh again")

    assert buyers.errors == []
    system.proven()
    assert system.flow()["outbox"] == 0


def test_brokers_die_while_people_look_at_the_control_room(system: System) -> None:
    # A client that asked a group's coordinator took the process with it when that broker died.
    control_room = system.children("audit")
    with Onlookers(system), Buyers(system) as buyers:
        for _ in range(2):
            for name in BROKERS:
                system.machine.processes[name].kill()
            until(lambda: system.flow()["log"] is None, 60, "the log is shown as dead")
            buyers.wait_for(60)
            system.machine.ensure(*BROKERS)
            until(lambda: sum(readers(system).values()) == PARTITIONS, 90, "who reads what is shown again")

    assert system.children("audit") == control_room
    assert buyers.errors == []
    system.proven()


@pytest.mark.parametrize("role", ["projector", "relay", "bank", "checkout"])
def test_a_role_dies_under_load(system: System, role: str) -> None:
    with Buyers(system) as buyers:
        for _ in range(3):
            system.kill(role)
            buyers.wait_for(30)

    if role in ("projector", "relay"):
        assert buyers.errors == []
    system.proven()


def test_the_connect_worker_dies_under_load(system: System) -> None:
    with Buyers(system) as buyers:
        for _ in range(2):
            system.machine.processes["connect"].kill()
            buyers.wait_for(40)
            system.machine.ensure("connect")
            buyers.wait_for(40)

    assert buyers.errors == []
    system.proven()


def test_elasticsearch_dies_under_load(system: System) -> None:
    with Buyers(system) as buyers:
        system.machine.processes["elasticsearch"].kill()
        buyers.wait_for(80)
        system.machine.ensure("elasticsearch")
        buyers.wait_for(40)

    assert buyers.errors == []
    system.proven()
    letters = json.loads(system.run("dead-letter", "list", "--json").stdout)
    assert [letter for letter in letters if letter["reader"] == "search"] == []


def test_the_statements_database_restarts_under_load(system: System) -> None:
    with Buyers(system) as buyers:
        for _ in range(3):
            asyncio.run(cut_connections(system))
            buyers.wait_for(30)

    assert buyers.errors == []
    system.proven()


async def cut_connections(system: System) -> None:
    """End every connection to the statement's database, as its restart would."""
    connection = await asyncpg.connect(system.settings.database_url("statement", "postgres"))
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'statement' and pid <> pg_backend_pid()"
    )
    await connection.close()


def test_three_projectors_share_the_partitions_and_take_over_from_the_dead(system: System) -> None:
    more = [extra_projector(system) for _ in range(2)]
    try:
        with Buyers(system) as buyers:
            until(lambda: sorted(readers(system).values()) == [4, 4, 4], 90, "three share")

            more[0].send_signal(signal.SIGKILL)
            more[0].wait()
            until(lambda: sorted(readers(system).values()) == [6, 6], 60, "two take over")
            buyers.wait_for(30)

            more.append(extra_projector(system))
            until(lambda: sorted(readers(system).values()) == [4, 4, 4], 90, "a new one gets its share")
            buyers.wait_for(30)

            # A redeployment: asked to stop, it gives its partitions back at once.
            more[1].terminate()
            more[1].wait(20)
            until(lambda: sorted(readers(system).values()) == [6, 6], 60, "it left")
        assert buyers.errors == []
        system.proven()
    finally:
        for process in more:
            if process.poll() is None:
                process.terminate()
                process.wait(20)
    until(lambda: list(readers(system).values()) == [12], 60, "one has all")


def test_poison_is_put_aside_listed_and_stops_nobody(system: System) -> None:
    producer = Producer({"bootstrap.servers": system.machine.settings.kafka})
    payment = [("ce_type", b"codebank.payment.approved"), ("ce_payment", b"true"), ("ce_sequence", b"1")]
    poison = {
        b"not json": payment,
        b'{"wrong": "schema"}': payment,
        b"{}": [("ce_type", b"codebank.payment.imagined")],
        b"another program's": [],
    }
    before = len(json.loads(system.run("dead-letter", "list", "--json").stdout))
    with Buyers(system) as buyers:
        for value, headers in poison.items():
            producer.produce(PAYMENTS_TOPIC, value=value, key=b"somebody", partition=5, headers=list(headers))
        assert producer.flush(20) == 0
        buyers.wait_for(60)

    def listed() -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(system.run("dead-letter", "list", "--json").stdout)
        return found if len(found) >= before + 7 else []

    letters = until(listed, 90, "seven letters: four of the statement, three of the connector")

    assert buyers.errors == []
    of_statement = [letter for letter in letters if letter["reader"] == "statement"]
    of_search = [letter for letter in letters if letter["reader"] == "search"]
    assert {letter["value"].encode() for letter in of_statement} == set(poison)
    assert {letter["value"].encode() for letter in of_search} == set(poison) - {b"{}"}
    assert all(letter["origin"].startswith(f"{PAYMENTS_TOPIC}/5/") for letter in letters)
    assert any("unknown event type" in letter["reason"] for letter in of_statement)
    replayed = system.run("dead-letter", "replay", of_statement[0]["origin"])
    assert replayed.returncode == 1, replayed.stdout
    assert of_statement[0]["origin"] in replayed.stdout
    assert system.run("dead-letter", "replay", "codebank.payments/0/99999999").returncode == 1
    assert system.run("dead-letter", "replay", "nonsense").returncode == 2
    metrics = httpx.get(f"http://127.0.0.1:{system.environment['CODEBANK_PROJECTOR_HEALTH_PORT']}/metrics").text
    (counted,) = [line for line in metrics.splitlines() if line.startswith("codebank_dead_letters_total ")]
    assert counted.split()[1] == "4.0"
    system.proven()


def test_statement_and_index_are_rebuilt_from_the_log_while_everything_runs(system: System) -> None:
    with Buyers(system) as buyers:
        rebuilt = system.run("statement", "rebuild")
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert "partition 12 of 12" in rebuilt.stderr
        rewound = system.run("connect", "rewind")
        assert rewound.returncode == 0, rewound.stderr
        buyers.wait_for(30)

    assert buyers.errors == []
    system.proven()


def test_topics_and_connector_are_as_they_should_be(system: System) -> None:
    assert system.run("topics").stdout.count("as it should be") == 3
    assert "as it should be" in system.run("connect", "apply").stdout


def test_the_proof_finds_what_is_wrong_in_the_index(system: System) -> None:
    system.proven()
    index = Peer(system.settings.elasticsearch)

    async def harm() -> None:
        await index.ask("POST", f"/{INDEX}/_refresh")
        found = await index.ask("POST", f"/{INDEX}/_search", {"size": 2, "query": {"term": {"status": "declined"}}})
        changed, removed = (hit["_id"] for hit in found["hits"]["hits"])
        await index.ask("POST", f"/{INDEX}/_update/{changed}", {"doc": {"amount_minor": 1}})
        await index.ask("DELETE", f"/{INDEX}/_doc/{removed}")

    async def mend() -> None:
        found = SearchIndex.of(system.settings)
        assert found is not None
        await found.remove()

    asyncio.run(harm())
    done = system.run("proof", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert [check for check in checks.values() if not check["holds"]] == [checks["search"]]
    assert len(checks["search"]["differences"]) == 2
    assert any("is missing on the search index" in one for one in checks["search"]["differences"])
    assert any("search index has declined 1 " in one for one in checks["search"]["differences"])

    # The way back, as docs/operations.md tells it.
    asyncio.run(mend())
    assert system.run("connect", "apply").returncode == 0
    assert system.run("connect", "rewind").returncode == 0
    system.proven()
