"""Our manifests on a real API server, scheduler and controllers: accepted, placed, rolled out, protected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import yaml

from codebank.settings import ROLE_NAMES
from tests.kubernetes.conftest import need, refuse
from tests.kubernetes.control import Control
from tests.kubernetes.definitions import define
from tests.kubernetes.mesh import make_install
from tests.kubernetes.rendered import DEPLOY, OVERLAYS, deploy_folder, manifests, render
from tests.kubernetes.tools import Missing, program

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(400), pytest.mark.xdist_group("kubernetes")]

#: Strimzi publishes no definitions outside its images: test_strimzi reads ours with its own model.
_NOT_DEFINED = "kafka.strimzi.io"


#: What Istio rightly misses on this cluster → who brings it.
NOT_THERE = {
    'Referenced selector not found: "app.kubernetes.io/name=buyer"': "a pod of `make smoke`",
    'Referenced selector not found: "app.kubernetes.io/name=operator"': "a pod that a person starts",
    'Referenced credentialName not found: "doors-tls"': "cert-manager, which does not run here",
}


@pytest.fixture(scope="module")
def control(simulated: Control) -> Control:
    """Give a control plane that knows the operators' definitions, and the namespace."""
    try:
        define(simulated)
    except Missing as error:
        refuse(str(error))
    simulated.apply((DEPLOY / "kubernetes" / "base" / "namespace.yaml").read_text())
    return simulated


def without_strimzi(text: str) -> str:
    kept = [one for one in yaml.safe_load_all(text) if _NOT_DEFINED not in one["apiVersion"]]
    return yaml.safe_dump_all(kept)


@pytest.mark.parametrize("folder", [*OVERLAYS, "platform"])
def test_a_real_api_server_takes_every_manifest_and_knows_every_field(control: Control, folder: str) -> None:
    told = control.apply(without_strimzi(render(folder)), "--dry-run=server")

    assert len(told.splitlines()) == len(list(yaml.safe_load_all(without_strimzi(render(folder)))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": {"replicsa": 2}}, "replicsa"),
        ({"spec": {"selector": {"matchLabels": {"app.kubernetes.io/name": "bnak"}}}}, "selector"),
        ({"spec": {"strategy": {"type": "Rolling"}}}, "Rolling"),
    ],
)
def test_a_wrong_manifest_is_refused(control: Control, change: dict[str, Any], said: str) -> None:
    (bank,) = (
        one
        for one in manifests("overlays/production")
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "bank")
    )
    wrong = json.loads(json.dumps(bank))
    wrong["spec"] |= change["spec"]

    done = control.try_kubectl(
        "apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", "-", given=json.dumps(wrong)
    )

    assert done.returncode
    assert said in done.stderr


def test_a_pod_that_may_too_much_is_refused_in_our_namespace(control: Control) -> None:
    container = {"name": "greedy", "image": "greedy", "securityContext": {"privileged": True}}
    metadata = {"name": "greedy", "namespace": "codebank"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}

    done = control.try_kubectl("apply", "-f", "-", "--dry-run=server", given=json.dumps(pod))

    assert done.returncode
    assert 'violates PodSecurity "restricted:latest"' in done.stderr


@pytest.fixture(scope="module")
def rolled_out(control: Control) -> Control:
    """Give a control plane on which production was rolled out as `make deploy` does it."""
    folder = deploy_folder() / "kubernetes"
    script = control.work / "kubectl"
    script.write_text(
        f'#!/bin/sh\nexec {program("kubectl", "kubernetes")} --kubeconfig={control.pki}/admin.kubeconfig "$@"\n'
    )
    script.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(folder / "roll_out.py"), "production", "--timeout=120"],
        env=os.environ | {"KUBECTL": str(script)}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stdout + done.stderr
    assert [line.split("] ")[1] for line in done.stdout.splitlines()] == [
        "settings, secrets, policies, stores", "databases, migrations, topics", "roles",
        *(f"{role} is ready" for role in ("bank", "relay", "projector", "checkout", "statement", "audit")),
        "rolled out",
    ]  # fmt: skip
    return control


def test_production_rolls_out_in_its_order(rolled_out: Control) -> None:
    ready = {
        one["metadata"]["name"]: one["status"].get("readyReplicas")
        for one in rolled_out.read("deployment", "-n", "codebank")["items"]
    }

    # The autoscaler has no metrics here; it holds the least it may.
    assert {role: ready[role] for role in ("relay", "projector", "audit")} == {"relay": 2, "projector": 3, "audit": 1}
    assert set(ready) == set(ROLE_NAMES)


def test_replicas_are_spread_over_nodes_and_zones(rolled_out: Control) -> None:
    rolled_out.kubectl("scale", "deployment/bank", "--replicas=3", "-n", "codebank")
    rolled_out.kubectl("rollout", "status", "deployment/bank", "-n", "codebank", "--timeout=60s")
    for role in ("bank", "projector"):
        pods = rolled_out.read("pod", "-n", "codebank", "-l", f"app.kubernetes.io/name={role}")["items"]
        placed = Counter(pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"])
        assert sorted(placed.values()) == [1, 1, 1], (role, placed)


def test_a_disruption_budget_lets_one_pod_go_at_a_time(rolled_out: Control) -> None:
    pods = rolled_out.read("pod", "-n", "codebank", "-l", "app.kubernetes.io/name=projector")["items"]
    rolled_out.wait(
        "the budget is counted",
        lambda: rolled_out.read("pdb", "projector", "-n", "codebank")["status"]["disruptionsAllowed"] == 1,
    )
    answers = []
    for pod in pods[:2]:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": pod["metadata"]["name"], "namespace": "codebank"}}  # fmt: skip
        path = f"/api/v1/namespaces/codebank/pods/{pod['metadata']['name']}/eviction"
        answers.append(rolled_out.try_kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction)))

    assert [answer.returncode == 0 for answer in answers] == [True, False]
    assert "violate the pod's disruption budget" in answers[1].stderr


def test_a_job_that_fails_touches_no_role(rolled_out: Control) -> None:
    before = rolled_out.read("deployment", "-n", "codebank")["items"]
    rolled_out.kubectl("delete", "job", "prepare", "-n", "codebank")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": "codebank"},
             "spec": {"hard": {"count/jobs.batch": "0"}}}  # fmt: skip
    rolled_out.apply(json.dumps(quota))
    try:
        rolled_out.wait(
            "the quota is counted", lambda: rolled_out.read("quota", "none", "-n", "codebank")["status"].get("used")
        )
        done = subprocess.run(
            [sys.executable, str(deploy_folder() / "kubernetes" / "roll_out.py"), "production", "--timeout=20"],
            env=os.environ | {"KUBECTL": str(rolled_out.work / "kubectl")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        rolled_out.kubectl("delete", "quota", "none", "-n", "codebank")

    assert done.returncode == 1
    assert "quota" in done.stderr
    after = rolled_out.read("deployment", "-n", "codebank")["items"]
    assert [one["metadata"]["generation"] for one in before] == [one["metadata"]["generation"] for one in after]


def test_istio_finds_nothing_wrong_with_production_in_the_mesh(rolled_out: Control) -> None:
    need("istioctl")
    # All of it but what would be called for every pod, and does not run here.
    installed = [one for one in yaml.safe_load_all(make_install()) if one and "Webhook" not in one["kind"]]
    rolled_out.apply((DEPLOY / "istio" / "platform" / "namespaces.yaml").read_text())
    rolled_out.apply(yaml.safe_dump_all(installed))
    rolled_out.apply(without_strimzi(render("overlays/mesh")), "--selector=app.kubernetes.io/component!=job")

    assert analyse(rolled_out) == set(NOT_THERE)

    bank = rolled_out.read("virtualservices.networking.istio.io", "bank", "-n", "codebank")
    bank["spec"]["http"][1]["route"][0]["destination"]["host"] = "bnak"
    rolled_out.apply(json.dumps(bank))
    (found,) = analyse(rolled_out) - set(NOT_THERE)
    assert "bnak" in found


def analyse(control: Control) -> set[str]:
    """Give what `istioctl analyze` says of our namespace."""
    command = [program("istioctl", "istioctl"), "analyze", "--namespace=codebank", "--output=json",
               f"--kubeconfig={control.pki}/admin.kubeconfig"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = json.loads(done.stdout or "[]")
    # A pod without its sidecar is no news: who puts it in does not run here (test_sidecars has them).
    return {one["message"] for one in found if one["code"] != "IST0103"}
