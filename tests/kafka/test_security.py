"""TLS and SASL by settings, against a broker that takes nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from codebank.errors import CodebankError
from codebank.eventlog.kafka.log import KafkaLog
from codebank.eventlog.kafka.topics import prepare_topics
from codebank.eventlog.log import LogUnavailable
from codebank.settings import Settings
from tests.eventlog.conformance import TOPIC, record
from tests.kafka.certificates import make_certificates
from tests.kafka.machine import Machine, Process
from tests.system import free_ports

pytestmark = [pytest.mark.anyio, pytest.mark.kafka, pytest.mark.timeout(90, func_only=True)]
PASSWORD = "not-a-secret"  # of a broker that lives for one test


@pytest.fixture
def secured(servers: Machine) -> Iterator[Settings]:
    """Give the settings of a broker that speaks TLS to those who sign in."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    certificates = make_certificates(folder)
    chain = certificates.key.read_text() + certificates.certificate.read_text()
    port = free_ports(2)
    store = folder / "server-chain.pem"
    store.write_text(chain)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    properties = {
        "listeners": f"SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
        "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}",
        "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": (
            f'{login} username="broker" password="{PASSWORD}" user_broker="{PASSWORD}" user_codebank="{PASSWORD}";'
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
    }
    cluster = replace(servers.servers.cluster(), folder=folder, ports=[port], properties=properties)
    cluster.prepare()
    broker = Process(cluster.brokers()[0])
    broker.start()
    try:
        broker.wait()
        yield Settings(
            kafka=f"localhost:{port}",
            kafka_security_protocol="sasl_ssl",
            kafka_ca_file=str(certificates.authority),
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username="codebank",
            kafka_sasl_password=PASSWORD,
            kafka_replication=1,
            kafka_min_in_sync=1,
        )
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_the_log_works_over_tls_with_a_sign_in_and_not_without(secured: Settings) -> None:
    await prepare_topics(secured)
    log = KafkaLog(secured)
    writer = await log.open_writer(TOPIC)
    await writer.append([record("key", 1)])
    assert sum((await log.ends(TOPIC, settled=True)).values()) == 1
    await writer.close()
    await log.close()

    for wrong in (
        replace(secured, kafka_sasl_password="wrong"),
        replace(secured, kafka_ca_file=""),
        replace(secured, kafka_security_protocol="plaintext"),
    ):
        other = KafkaLog(wrong)
        with pytest.raises(LogUnavailable):
            await other.layout(TOPIC)
        await other.close()
    with pytest.raises(CodebankError, match="does not answer"):
        await prepare_topics(replace(secured, kafka_sasl_password="wrong"))
