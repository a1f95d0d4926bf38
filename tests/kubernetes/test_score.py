"""kube-score has nothing to say of our manifests but what stands here with its reason."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.kubernetes.conftest import need
from tests.kubernetes.rendered import OVERLAYS, render
from tests.kubernetes.tools import program

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(400), pytest.mark.usefixtures("kubectl")]

#: What it says → why it is so.
EXCEPTIONS = {
    "Deployment does not have a host podAntiAffinity set": "topologySpreadConstraints do that, over zones too",
    "StatefulSet does not have a host podAntiAffinity set": "one pod, on the one node of development",
    "CPU limit is not set": "a loop that is throttled is late for everybody it serves; requests share a node",
    "ImagePullPolicy is not set to Always": "versions do not change, and a registry that is down must stop no pod",
    "The NetworkPolicys selector doesn't match any pods": "pods of the operators, and those of a command",
    "The container running with a low group ID": "Kafka's official image lets group 0 write its folders",
    "No matching PodDisruptionBudget was found": "one PostgreSQL and one Kafka must let a node be drained",
    "Deployment few replicas": "development has one of each; one audit is enough, nobody waits for it",
}
IN_PRODUCTION = {"audit: Deployment few replicas"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stranger_finds_nothing_but_what_has_its_reason(overlay: str) -> None:
    need("kube-score")
    command = [program("kube-score", "kube-score"), "score", "--kubernetes-version=v1.37", "--output-format=ci", "-"]
    done = subprocess.run(command, input=render(overlay), capture_output=True, text=True, check=False, timeout=60)
    assert "[OK]" in done.stdout, done.stderr

    found = [line for line in done.stdout.splitlines() if line.startswith(("[WARNING]", "[CRITICAL]"))]
    said = {(line.split()[1].partition("/")[0], re.sub(r"^\(\w+\) ", "", line.partition(": ")[2])) for line in found}
    assert {text for _, text in said} <= set(EXCEPTIONS)
    if overlay == "overlays/production":
        few = {f"{name}: {text}" for name, text in said if text == "Deployment few replicas"}
        assert few == IN_PRODUCTION


def test_it_does_find_what_is_wrong() -> None:
    need("kube-score")
    spec = "{containers: [{name: careless, image: careless}]}"
    careless = f"apiVersion: v1\nkind: Pod\nmetadata: {{name: careless}}\nspec: {spec}\n"
    command = [program("kube-score", "kube-score"), "score", "--output-format=ci", "-"]
    done = subprocess.run(command, input=careless, capture_output=True, text=True, check=False, timeout=60)

    assert "[CRITICAL]" in done.stdout
