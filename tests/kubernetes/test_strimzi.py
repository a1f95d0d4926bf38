"""What we ask of Strimzi, read by Strimzi's own model: its definitions are published nowhere else."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from typing import Any

import pytest

from codebank.errors import CodebankError
from codebank.machine.servers.java import KAFKA_JAVA, fetch, find_java, java_environment
from tests.kubernetes.conftest import MODE, refuse
from tests.kubernetes.rendered import ROOT, manifests
from tests.kubernetes.tools import CACHE, say

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(400), pytest.mark.usefixtures("kubectl")]

HERE = ROOT / "tests" / "kubernetes" / "strimzi"


def ours() -> list[dict[str, Any]]:
    return [one for one in manifests("platform") if one["apiVersion"].startswith("kafka.strimzi.io/")]


def read(resources: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Let the model read resources; it names what it does not know."""
    if not MODE:
        pytest.skip("reads with Java: `make test-kubernetes` runs it")
    try:
        java = find_java(KAFKA_JAVA)
        jars = fetch(java, HERE, CACHE / "strimzi", say, "Strimzi's model")
    except CodebankError as error:
        refuse(str(error))
    return subprocess.run(
        [str(java / "bin" / "java"), "-cp", f"{jars}/*", str(HERE / "Read.java")], input=json.dumps(resources),
        env=os.environ | java_environment(java), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_strimzi_knows_every_field_of_ours() -> None:
    done = read(ours())

    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"read {one['kind']}/{one['metadata']['name']}" for one in ours()]
    assert len(ours()) >= 7


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("Kafka", ("spec", "kafka", "listners"), [], "unknown Kafka/kafka.Spec.Kafka.listners"),
        (
            "KafkaUser",
            ("spec", "authentication", "tpye"),
            "tls",
            "unknown KafkaUser/kafka-audit.Spec.Authentication.tpye",
        ),
    ],
)
def test_it_does_find_a_field_that_is_wrong(kind: str, path: tuple[str, ...], value: object, said: str) -> None:
    wrong = copy.deepcopy(next(one for one in ours() if one["kind"] == kind))
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    assert said in read([wrong]).stdout
