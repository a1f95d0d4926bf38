"""The mesh's files as Istio's own program reads them: analysed, validated, and sidecars put in. Needs no cluster."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from codebank.checkout.bank import FIRST_TRY_SHARE
from codebank.settings import ROLE_NAMES, Settings
from codebank.v1 import bank_pb2
from tests.kubernetes.conftest import need
from tests.kubernetes.mesh import make_install
from tests.kubernetes.rendered import DEPLOY, Manifest, manifests, of_kind, pods, render
from tests.kubernetes.test_manifests import ARROWS, STORES
from tests.kubernetes.tools import program

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(400), pytest.mark.usefixtures("kubectl")]

EXAMPLES = sorted((DEPLOY / "istio" / "examples").glob("*.yaml"))
INSTALL = DEPLOY / "istio" / "platform" / "install.yaml"


def istioctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    need("istioctl")
    # Of a cluster it would know that it has Kubernetes' own kind of sidecar.
    environment = os.environ | {"ENABLE_NATIVE_SIDECARS": "true"}
    return subprocess.run(
        [program("istioctl", "istioctl"), *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def with_example(example: Path | None) -> str:
    """Give the overlay, and where there is an example, its resources in the place of ours."""
    ours = manifests("overlays/mesh")
    if example is None:
        return yaml.safe_dump_all(ours)
    others = list(yaml.safe_load_all(example.read_text()))
    replaced = {(one["kind"], one["metadata"]["name"]) for one in others}
    found = [one for one in ours if (one["kind"], one["metadata"]["name"]) not in replaced]
    if example.stem == "canary":
        (bank,) = (one for one in ours if (one["kind"], one["metadata"]["name"]) == ("Deployment", "bank"))
        found.append(canary(bank))
    return yaml.safe_dump_all([*found, *others])


def canary(bank: Manifest) -> Manifest:
    done = subprocess.run(
        ["python3", str(DEPLOY / "istio" / "canary.py"), "codebank/codebank:0.2.0"],
        input=json.dumps(bank), capture_output=True, text=True, check=True,
    )  # fmt: skip
    made: Manifest = yaml.safe_load(done.stdout)
    return made


@pytest.mark.parametrize("example", [None, *EXAMPLES], ids=lambda one: one.stem if one else "ours")
def test_istio_finds_nothing_to_say(example: Path | None, tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.write_text(with_example(example))
    analysed = istioctl("analyze", "--use-kube=false", "-A", str(file))
    validated = istioctl("validate", "-f", str(file))

    assert "No validation issues found" in analysed.stdout + analysed.stderr
    assert analysed.returncode == 0
    assert validated.stderr + validated.stdout == f'"{file}" is valid\n'


def test_istio_does_find_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    (canary_example,) = (one for one in EXAMPLES if one.stem == "canary")
    file.write_text(with_example(canary_example).replace("subset: canary", "subset: carnary"))

    analysed = istioctl("analyze", "--use-kube=false", "-A", str(file))

    assert analysed.returncode != 0
    assert "carnary" in analysed.stdout + analysed.stderr


def test_the_installation_is_what_istio_can_make_and_has_what_we_ask_for() -> None:
    need("istioctl")
    made = [one for one in yaml.safe_load_all(make_install()) if one]

    assert set(of_kind(made, "Deployment")) == {"istiod", "istio-ingressgateway"}
    assert set(of_kind(made, "DaemonSet")) == {"istio-cni-node"}
    # callers.yaml names the gateway by this.
    gateway = of_kind(made, "Deployment")["istio-ingressgateway"]
    assert gateway["metadata"]["namespace"] == "istio-ingress"
    assert gateway["spec"]["template"]["spec"]["serviceAccountName"] == "istio-ingressgateway-service-account"
    mesh = yaml.safe_load(of_kind(made, "ConfigMap")["istio"]["data"]["mesh"])
    assert mesh["outboundTrafficPolicy"] == {"mode": "REGISTRY_ONLY"}
    assert mesh["extensionProviders"][0]["name"] == "codebank-traces"


def test_sidecars_are_put_in_and_the_pods_stay_within_the_rules(tmp_path: Path) -> None:
    need("istioctl")
    parts = of_kind((one for one in yaml.safe_load_all(make_install()) if one), "ConfigMap")
    places = {
        "--injectConfigFile": parts["istio-sidecar-injector"]["data"]["config"],
        "--valuesFile": parts["istio-sidecar-injector"]["data"]["values"],
        "--meshConfigFile": parts["istio"]["data"]["mesh"],
        "--filename": render("overlays/mesh"),
    }
    arguments = []
    for option, text in places.items():
        (tmp_path / option).write_text(text)
        arguments.append(f"{option}={tmp_path / option}")
    done = istioctl("kube-inject", "--revision=default", *arguments)
    assert done.returncode == 0, done.stderr
    injected = pods(one for one in yaml.safe_load_all(done.stdout) if one)

    assert {name for name, pod in injected.items() if "istio-proxy" in containers(pod)} == set(ROLE_NAMES)
    for role in ROLE_NAMES:
        proxy = containers(injected[role])["istio-proxy"]
        guard = proxy["securityContext"]
        assert proxy["restartPolicy"] == "Always"  # ends after the role, and starts before it
        assert guard["runAsNonRoot"] is True
        assert guard["allowPrivilegeEscalation"] is False
        assert guard["capabilities"] == {"drop": ["ALL"]}
        assert proxy["resources"]["limits"]["memory"] == "256Mi"
        # Kubernetes asks the sidecar, which asks the role: nothing comes to a role in clear.
        (codebank,) = (one for one in injected[role]["spec"]["containers"] if one["name"] == "codebank")
        assert codebank["readinessProbe"]["httpGet"]["path"] == "/app-health/codebank/readyz"


def containers(pod: Manifest) -> dict[str, Any]:
    return {one["name"]: one for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]}


def test_a_method_of_the_bank_is_allowed_to_one_caller_and_every_method_to_somebody() -> None:
    rules = of_kind(manifests("overlays/mesh"), "AuthorizationPolicy")["bank"]["spec"]["rules"]
    allowed = {rule["from"][0]["source"]["principals"][0].rpartition("/")[2]: rule["to"][0]["operation"]["paths"]
               for rule in rules}  # fmt: skip
    service = bank_pb2.DESCRIPTOR.services_by_name["Bank"]

    assert set(allowed) == {"checkout", "operator"}
    assert not set(allowed["checkout"]) & set(allowed["operator"])
    assert {path for paths in allowed.values() for path in paths} == {
        f"/{service.full_name}/{method.name}" for method in service.methods
    }


def test_scopes_and_callers_are_the_arrows() -> None:
    found = manifests("overlays/mesh")
    names = {"postgres-rw": "postgres", "kafka-kafka-bootstrap": "kafka", "kafka-kafka-brokers": "kafka",
             "connect-connect-api": "connect", "search-es-http": "elasticsearch"}  # fmt: skip
    known = {
        (role, names.get(name := host.removeprefix("./").partition(".")[0], name))
        for role, scope in of_kind(found, "Sidecar").items()
        for host in scope["spec"]["egress"][0]["hosts"]
        if host.startswith("./")
    }
    inner = {(who, whom) for who, whom, _ in ARROWS if who not in {"door", "monitoring"}}
    stores = {(who, store) for store, users in STORES.items() for who in users if who not in {"prepare", "connect"}}

    assert known == inner | stores | {("audit", "connect"), ("audit", "elasticsearch")}


def test_the_mesh_gives_up_before_the_checkout_does_and_leaves_it_time_for_another_try() -> None:
    """The arithmetic of deploy/istio/calls.yaml, from the numbers that are in force."""
    calls = of_kind(manifests("overlays/mesh"), "VirtualService")["bank"]["spec"]["http"][1]
    timeout_seconds = int(calls["timeout"].removesuffix("ms")) / 1000
    budget_seconds = Settings().call_budget_seconds

    assert timeout_seconds < FIRST_TRY_SHARE * budget_seconds
    assert budget_seconds - timeout_seconds > 2, "a second try must fit"
    assert calls["retries"] == {"attempts": 1, "retryOn": "connect-failure,refused-stream"}
    # Pauses of 50 ms, doubling to 1 s, at their shortest half of that: how many tries fit.
    tries, passed, pause = 1, 0.0, 0.05
    while passed + pause < budget_seconds:
        passed, pause, tries = passed + pause / 2, min(pause * 2, 1), tries + 1
    assert tries == 13
