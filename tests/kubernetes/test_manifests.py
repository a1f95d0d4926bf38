"""The manifests as rendered: what each pod may do, see and reach, and that they fit together. Needs only kubectl."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from codebank.settings import ROLE_NAMES, Settings
from tests.kubernetes.levels import LEVELS, Outcomes, table
from tests.kubernetes.rendered import DEPLOY, OVERLAYS, Manifest, manifests, of_kind, pods

pytestmark = pytest.mark.usefixtures("kubectl")

HEALTH_PORTS = {role: getattr(Settings(), f"{role}_health_port") for role in ROLE_NAMES}
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)

#: Who may speak to whom, at which port: ARCHITECTURE.md's picture. Doors and monitoring are namespaces.
ARROWS = {
    ("door", "checkout", 8000), ("door", "statement", 8010), ("door", "audit", 8020),
    ("buyer", "checkout", 8000), ("buyer", "statement", 8010),
    ("checkout", "bank", 50051), ("operator", "bank", 50051),
    *(("audit", role, port) for role, port in HEALTH_PORTS.items() if role != "audit"),
    *(("monitoring", role, port) for role, port in HEALTH_PORTS.items()),
}  # fmt: skip
STORES = {
    "postgres": {"bank", "relay", "checkout", "projector", "statement", "audit", "prepare"},
    "kafka": {"relay", "projector", "audit", "prepare", "connect"},
}
NAME = "app.kubernetes.io/name"


def containers(pod: Manifest) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@each_overlay
def test_every_container_is_guarded_and_has_its_limits(overlay: str) -> None:
    for name, pod in pods(manifests(overlay)).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(pod):
            guard, resources = container["securityContext"], container["resources"]
            assert guard["readOnlyRootFilesystem"] is True, name
            assert guard["allowPrivilegeEscalation"] is False, name
            assert guard["capabilities"] == {"drop": ["ALL"]}, name
            assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}, name
            assert set(resources["limits"]) == {"memory", "ephemeral-storage"}, name
            assert re.search(r":[\w.-]+$", container["image"]), f"{name}: {container['image']} has no version"


@each_overlay
def test_the_probes_of_a_role_mean_different_things(overlay: str) -> None:
    for role in ROLE_NAMES:
        (container,) = pods(manifests(overlay))[role]["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        startup, ready, live = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        assert ports["http-metrics"] == HEALTH_PORTS[role]
        assert ready["httpGet"] == {"path": "/health/ready", "port": "http-metrics"}
        assert startup["httpGet"] == live["httpGet"] == {"path": "/health/live", "port": "http-metrics"}
        # It is taken out of service long before it is started again.
        assert live["periodSeconds"] * live["failureThreshold"] > 5 * ready["periodSeconds"] * ready["failureThreshold"]


@each_overlay
def test_a_role_may_finish_what_it_took(overlay: str) -> None:
    settings = of_settings(overlay)
    for role in ROLE_NAMES:
        spec = pods(manifests(overlay))[role]["spec"]
        hook = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {"seconds": 0})
        drained = hook["seconds"] + int(settings["CODEBANK_STOP_GRACE_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] >= drained + 10
        # Whoever is called goes only after its callers know.
        is_called = role in {"bank", "checkout", "statement", "audit"}
        assert (hook["seconds"] > 0) == is_called, role


def of_settings(overlay: str) -> dict[str, str]:
    (found,) = (one["data"] for one in manifests(overlay) if one["metadata"]["name"].startswith("settings-"))
    settings: dict[str, str] = found
    return settings


@each_overlay
def test_every_setting_exists_and_the_program_takes_them(overlay: str) -> None:
    known = {f"CODEBANK_{name.upper()}" for name in Settings.__dataclass_fields__}
    named = set(of_settings(overlay))
    for pod in pods(manifests(overlay)).values():
        for container in containers(pod):
            if container["name"] not in {"postgres", "kafka"}:
                named |= {entry["name"] for entry in container.get("env", [])}

    assert {name.removesuffix("_FILE") if name not in known else name for name in named} <= known
    loaded = Settings.load({name: value for name, value in of_settings(overlay).items() if not name.endswith("_FILE")})
    assert loaded.postgres
    assert loaded.kafka


@each_overlay
def test_what_selects_finds_and_what_names_is_named(overlay: str) -> None:
    found = manifests(overlay)
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(found).items()}
    for service in of_kind(found, "Service").values():
        (name,) = (name for name, has in labels.items() if service["spec"]["selector"].items() <= has.items())
        (container,) = pods(found)[name]["spec"]["containers"]
        open_ports = {port["name"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in open_ports
            # A mesh reads the protocol from the name.
            assert re.match(r"(grpc|http|tcp)-", port["name"])
    for budget in of_kind(found, "PodDisruptionBudget").values():
        wanted = budget["spec"]["selector"]["matchLabels"]
        assert [name for name, has in labels.items() if wanted.items() <= has.items()] == [budget["metadata"]["name"]]
    accounts = of_kind(found, "ServiceAccount")
    for name, pod in pods(found).items():
        assert pod["spec"]["serviceAccountName"] == name
        assert accounts[name]["automountServiceAccountToken"] is False
    for scaler in of_kind(found, "HorizontalPodAutoscaler").values():
        target = scaler["spec"]["scaleTargetRef"]
        assert target["name"] in of_kind(found, target["kind"])


@each_overlay
def test_each_role_sees_its_own_secrets_only(overlay: str) -> None:
    for role in ROLE_NAMES:
        spec = pods(manifests(overlay))[role]["spec"]
        seen = set()
        for volume in spec["volumes"]:
            sources = [volume] if "secret" in volume else volume.get("projected", {}).get("sources", [])
            seen |= {one["secret"].get("secretName", one["secret"].get("name")) for one in sources}
        own = {re.sub(r"-[0-9a-z]{10}$", "", name) for name in seen}
        shared = {"postgres-ca", "kafka-cluster-ca-cert", "search-es-http-certs-public", "search-es-elastic-user"}
        assert own - shared <= {role, f"{role}-tls", f"kafka-{role}"}


def test_no_secret_lies_in_the_tree() -> None:
    for file in (DEPLOY / "kubernetes").rglob("*.yaml"):
        if not {"secrets", "certs"} & set(file.parts):
            assert "kind: Secret\n" not in file.read_text(), file
    assert {"certs/", "secrets/"} == {
        line.rpartition("*/")[2]
        for line in Path(DEPLOY.parent / ".gitignore").read_text().splitlines()
        if "overlays" in line
    }


@each_overlay
def test_nobody_speaks_to_anybody_but_along_the_arrows(overlay: str) -> None:
    policies = of_kind(manifests(overlay), "NetworkPolicy")
    nobody = policies["nobody"]["spec"]
    assert nobody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    into, out = set(), set()
    for name, policy in policies.items():
        if name in {"nobody", "names", "mesh"}:
            continue
        for rule in policy["spec"].get("ingress", []):
            into |= {(peer(one), name, port["port"]) for one in rule["from"] for port in rule["ports"]}
        for rule in policy["spec"].get("egress", []):
            out |= {(name, peer(one), port["port"]) for one in rule["to"] for port in rule["ports"]}
    stores = {(who, store, 5432 if store == "postgres" else 9092) for store, users in STORES.items() for who in users}

    assert into == ARROWS | stores
    outward = {("audit", "connect", 8083), ("audit", "elasticsearch", 9200), ("prepare", "connect", 8083),
               ("prepare", "elasticsearch", 9200)} | {(role, "monitoring", 4318) for role in ROLE_NAMES}  # fmt: skip
    from_here = {arrow for arrow in ARROWS | stores if arrow[0] not in {"door", "monitoring", "connect"}}
    assert out == from_here | outward


def test_in_the_mesh_everybody_reaches_istiod_besides_and_nothing_else() -> None:
    policy = of_kind(manifests("overlays/mesh"), "NetworkPolicy")["mesh"]["spec"]

    assert policy["podSelector"] == {}
    ((out,), (into,)) = policy["egress"], policy["ingress"]
    assert (out["to"], out["ports"]) == (
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "istio-system"}}}], [{"port": 15012}]
    )  # fmt: skip
    assert [peer(one) for one in into["from"]] == ["monitoring"]


def peer(rule: Manifest) -> str:
    (selector,) = rule.values()
    ((label, value),) = selector["matchLabels"].items()
    return str(value) if label in {NAME, "codebank.example/store"} else label.partition("/")[2]


def test_production_outlives_the_loss_of_any_one_pod() -> None:
    found = manifests("overlays/production")
    least = {name: one["spec"]["minReplicas"] for name, one in of_kind(found, "HorizontalPodAutoscaler").items()}
    for role, deployment in of_kind(found, "Deployment").items():
        replicas = least.get(role, deployment["spec"].get("replicas", 1))
        assert replicas >= 2 or role == "audit", role
        assert not (role in least and "replicas" in deployment["spec"]), "apply would undo what the autoscaler did"
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_development_overlay_fits_a_small_node() -> None:
    found = manifests("overlays/development")
    wanted = [
        container["resources"]
        for name, pod in pods(found).items()
        if name != "prepare"
        for container in containers(pod)
    ]

    assert sum(mebibytes(one["limits"]["memory"]) for one in wanted) <= 1536
    assert sum(int(one["requests"]["cpu"].removesuffix("m")) for one in wanted) <= 1000


def mebibytes(text: str) -> int:
    assert text.endswith("Mi"), text
    return int(text.removesuffix("Mi"))


def test_the_test_of_arrows_sees_one_too_many() -> None:
    # A peer that selects by something else is not taken for a known one.
    assert peer({"podSelector": {"matchLabels": {NAME: "bank"}}}) == "bank"
    with pytest.raises(ValueError, match="unpack"):
        peer({"podSelector": {"matchLabels": {}}})


def test_every_file_of_these_tests_has_its_level() -> None:
    assert {file.stem for file in Path(__file__).parent.glob("test_*.py")} == set(LEVELS)
    shown = table({"test_node": Outcomes(Counter(skipped=2), Counter({"no root": 2}))})

    assert "  level 3   a node: kubelet, containerd, kube-proxy, CoreDNS, our image: 2 skipped" in shown
    assert "            not run: no root" in shown
    assert sum("not asked for" in line for line in shown) == len(LEVELS) - 1
