"""Fixtures on real servers: started once for the session, emptied for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.machine import Machine, make_machine


@pytest.fixture(scope="session")
def servers() -> Iterator[Machine]:
    """Give the servers, prepared and not yet started."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    machine = make_machine(folder)
    try:
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def brokers(servers: Machine) -> Machine:
    """Give running brokers."""
    servers.ensure("kafka-1", "kafka-2", "kafka-3")
    return servers


@pytest.fixture
def everything(servers: Machine) -> Machine:
    """Give running brokers, Elasticsearch and Kafka Connect."""
    servers.ensure("kafka-1", "kafka-2", "kafka-3", "elasticsearch")
    servers.ensure("connect")
    return servers
