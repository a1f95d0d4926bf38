"""The full size without Elasticsearch and Kibana: three brokers, Kafka Connect, and a payment's path."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.docker.engine import Engine, say
from tests.docker.system import FILE, FULL_FILE, System, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(engine: Engine, image: str, connect_image: str) -> Iterator[System]:
    """Give the running part of the full size."""
    system = System(engine, (FILE, FULL_FILE))
    try:
        system.compose("up", "--wait", "connect", "statement")
        yield system
    finally:
        system.compose("down", "--volumes", "--timeout", "5", check=False)


def test_a_purchase_goes_over_three_brokers_and_connect_has_our_sink(cluster: System) -> None:
    order = cluster.buy()
    until(lambda: order["payment_id"] in cluster.lines(), 30, "the line on the statement")

    said = cluster.python(
        "relay",
        "import os, json\n"
        "from codebank.settings import Settings\n"
        "from codebank.eventlog.kafka.client import connection_of\n"
        "from confluent_kafka.admin import AdminClient\n"
        "seen = AdminClient(connection_of(Settings.load(os.environ))).list_topics(timeout=10)\n"
        "print(json.dumps(sorted(len(p.isrs) for p in seen.topics['codebank.payments'].partitions.values())))\n",
    )
    assert json.loads(said.stdout) == [3] * 12, said.stderr
    asked = (
        "import urllib.request; print(urllib.request.urlopen('http://connect:8083/connector-plugins').read().decode())"
    )
    plugins = json.loads(cluster.python("statement", asked).stdout)
    assert [one["class"] for one in plugins] == ["codebank.connect.elasticsearch.ElasticsearchSinkConnector"]


def test_a_killed_broker_is_missed_by_no_buyer(cluster: System) -> None:
    cluster.kill("kafka-2")

    order = cluster.buy()

    until(lambda: order["payment_id"] in cluster.lines(), 60, "a line without one broker")
    until(lambda: cluster.container("kafka-2")["State"]["Health"]["Status"] == "healthy", 60, "the broker again")
    cluster.measure()
    say(", ".join(f"{name} {size >> 20} MiB" for name, size in sorted(cluster.peaks.items())))
