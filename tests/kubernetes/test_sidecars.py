"""Codebank in Istio's mesh, for real: who may call what, and what a bank that fails costs nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from codebank.settings import ROLE_NAMES
from tests.docker.engine import Engine
from tests.kubernetes.conftest import need
from tests.kubernetes.mesh import HOSTS, PYTHON, Mesh
from tests.kubernetes.node import Node
from tests.kubernetes.shop import Shop
from tests.kubernetes.tools import program, say

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600, func_only=True), pytest.mark.xdist_group("kubernetes")]

#: How a call to the bank ends that did not reach it, or not in time.
FAILURES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "CANCELLED")
DENIED = "PERMISSION_DENIED: RBAC: access denied"


@pytest.fixture(scope="module")
def mesh(engine: Engine, node: Node, shop: Shop) -> Mesh:
    """Give the shop within the mesh; the tests of the bare shop come before."""
    need("istio", "istioctl", "istio-cni")
    return Mesh.open(node, shop, engine)


@pytest.fixture
def examples(mesh: Mesh) -> Iterator[Mesh]:
    """Take an example back after the test."""
    yield mesh
    mesh.restore()


def buyer(mesh: Mesh) -> list[str]:
    """Say how a program of ours runs in the pod of the buyer."""
    inside = [
        "--namespace=codebank",
        "exec",
        "--stdin",
        "pod/standing-buyer",
        "--container=codebank",
        "--",
        PYTHON,
        "-c",
    ]
    return [*mesh.shop.command(), *inside]


def test_every_role_has_its_sidecar_and_may_do_no_more_than_before(mesh: Mesh) -> None:
    for role in ROLE_NAMES:
        (pod,) = mesh.shop.pods(role)
        names = [one["name"] for one in pod["spec"]["initContainers"]]
        assert names == ["istio-validation", "istio-proxy"], role
    namespace = mesh.shop.control.read("namespace", "codebank")["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    for store in ("postgres-0", "kafka-0"):
        pod = mesh.shop.control.read("pod", store, "-n", "codebank")
        assert "initContainers" not in pod["spec"]


def test_a_payment_goes_through_the_mesh_and_all_agree(mesh: Mesh) -> None:
    assert "statement" in mesh.shop.smoke()
    # The audit saw nobody refused: every role's figures are read.
    mesh.shop.proven()


def test_the_checkout_may_pay_and_may_not_do_what_an_operator_does(mesh: Mesh) -> None:
    # The bank itself hears the first call, and asks for a key.
    assert mesh.call_bank("deployment/checkout", "GetPayment").startswith("UNAUTHENTICATED: ")
    for method in ("IssueCard", "GetCard", "BlockCard", "UnblockCard"):
        assert mesh.call_bank("deployment/checkout", method) == DENIED


def test_the_operator_may_do_what_is_the_operators_and_may_not_pay(mesh: Mesh) -> None:
    assert mesh.call_bank("pod/standing-operator", "GetCard").startswith("UNAUTHENTICATED: ")
    for method in ("Authorize", "Cancel", "GetPayment"):
        assert mesh.call_bank("pod/standing-operator", method) == DENIED


def test_the_statement_neither_finds_the_bank_nor_may_call_it(examples: Mesh) -> None:
    assert examples.call_bank("deployment/statement", "GetPayment").startswith("UNAVAILABLE: ")

    scope = examples.shop.control.read("sidecars.networking.istio.io", "statement", "-n", "codebank")
    scope["spec"]["egress"][0]["hosts"].append("./bank.codebank.svc.cluster.local")
    scope["metadata"].pop("managedFields", None)
    examples.shop.control.apply(json.dumps(scope))

    # It is told now where the bank is; the bank's own sidecar refuses whoever it is not to serve.
    examples.shop.control.wait(
        "the scope is wider", lambda: examples.call_bank("deployment/statement", "GetPayment") == DENIED
    )


def test_nothing_in_clear_is_taken_but_a_look_at_the_figures(mesh: Mesh) -> None:
    (bank,) = mesh.shop.pods("bank")
    (checkout,) = mesh.shop.pods("checkout")
    address, door = bank["status"]["podIP"], checkout["status"]["podIP"]

    assert curl(mesh, f"http://{door}:8000/").returncode == 56  # the connection is cut
    assert curl(mesh, "--http2-prior-knowledge", f"http://{address}:50051/").returncode != 0
    figures = curl(mesh, f"http://{address}:9101/metrics")
    assert "codebank_payments_total" in figures.stdout
    assert curl(mesh, "-X", "POST", f"http://{address}:9101/metrics").stdout == "RBAC: access denied"
    assert curl(mesh, f"http://{address}:9101/debug").stdout == "RBAC: access denied"


def curl(mesh: Mesh, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask from the node itself, which is no part of the mesh."""
    command = [*mesh.shop.control.within, "curl", "--silent", "--show-error", "--max-time", "5", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_doors_are_open_under_tls_and_lead_where_they_should(mesh: Mesh) -> None:
    gateway = mesh.shop.control.read("service", "istio-ingressgateway", "-n", "istio-ingress")["spec"]["clusterIP"]
    authority = str(mesh.shop.control.work / "doors" / "ca.crt")

    def look(host: str, *arguments: str, port: int = 443) -> str:
        scheme = "https" if port == 443 else "http"
        found = ["--resolve", f"{host}:{port}:{gateway}", *arguments, f"{scheme}://{host}/"]
        return curl(mesh, "--cacert", authority, *found).stdout

    seen = {host: look(host, "--location") for host in HOSTS}
    assert "Coisas boas do Brasil" in seen["loja.codebank.example"]
    assert "<h1" in seen["extrato.codebank.example"]
    assert "<h1" in seen["controle.codebank.example"]
    assert len(set(seen.values())) == 3
    code = ("--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}")
    assert look("loja.codebank.example", *code, port=80) == "301 https://loja.codebank.example/"
    assert look("other.codebank.example", *code).startswith("000")


def test_calls_that_the_mesh_lets_fail_are_made_again_and_no_buyer_sees_it(examples: Mesh) -> None:
    before = failed(examples)
    examples.apply("bank-fails")
    with examples.shop.buyers(within=buyer(examples)) as told:
        examples.shop.control.wait("some were let fail", lambda: failed(examples) > before + 20)

    assert told["errors"] == []
    assert set(told["outcomes"]) == {"paid"}
    examples.shop.proven()


def failed(mesh: Mesh) -> int:
    """Count the checkout's calls to the bank that did not end well."""
    (checkout,) = mesh.shop.pods("checkout")
    ended = [mesh.shop.counted(checkout, 9103, "codebank_bank_calls_total", f'status="{word}"') for word in FAILURES]
    return sum(ended)


#: Stands where a bank stands, and fails at once whatever it is asked.
BROKEN = """
import grpc, signal
from concurrent.futures import ThreadPoolExecutor
class Broken(grpc.GenericRpcHandler):
    def service(self, call):
        def fail(request, context):
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        return grpc.unary_unary_rpc_method_handler(fail)
server = grpc.server(ThreadPoolExecutor(4), handlers=[Broken()])
server.add_insecure_port("0.0.0.0:50051")
server.start()
signal.sigwait([signal.SIGTERM])
"""


def test_a_replica_that_fails_is_taken_out_and_no_payment_is_charged_twice(mesh: Mesh) -> None:
    shop = mesh.shop
    (bank,) = shop.pods("bank")
    spec = {
        "serviceAccountName": "bank",
        "automountServiceAccountToken": False,
        "securityContext": bank["spec"]["securityContext"],
        "containers": [
            {
                "name": "codebank", "image": "codebank:local", "command": [PYTHON, "-c", BROKEN],
                "ports": [{"name": "grpc-bank", "containerPort": 50051}],
                "securityContext": bank["spec"]["containers"][0]["securityContext"],
            }
        ],
    }  # fmt: skip
    labels = {"app.kubernetes.io/name": "bank", "app.kubernetes.io/component": "broken"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken", "labels": labels}, "spec": spec}
    shop.kubectl("scale", "deployment/bank", "--replicas=2")
    shop.kubectl("rollout", "status", "deployment/bank", "--timeout=120s")
    try:
        with shop.buyers(within=buyer(mesh)) as told:
            shop.kubectl("apply", "-f", "-", given=json.dumps(pod))
            shop.kubectl("wait", "--for=condition=Ready", "pod/broken", "--timeout=60s")
            address = shop.control.read("pod", "broken", "-n", "codebank")["status"]["podIP"]
            shop.control.wait("it is taken out", lambda: flags(mesh, address) == "/failed_outlier_check")
    finally:
        shop.kubectl("delete", "pod", "broken", "--ignore-not-found", "--wait")
        shop.kubectl("scale", "deployment/bank", "--replicas=1")
    assert told["errors"] == []
    assert set(told["outcomes"]) == {"paid"}
    shop.proven()


def flags(mesh: Mesh, address: str) -> str:
    """Tell what the checkout's sidecar holds against a replica of the bank."""
    for line in mesh.proxy("deployment/checkout", "clusters").splitlines():
        if line.startswith("outbound|50051||bank.") and f"::{address}:50051::health_flags::" in line:
            return line.rpartition("::")[2]
    return ""


def test_a_replica_that_hangs_costs_no_buyer_the_purchase(mesh: Mesh) -> None:
    shop = mesh.shop
    shop.kubectl("scale", "deployment/bank", "--replicas=2")
    shop.kubectl("rollout", "status", "deployment/bank", "--timeout=120s")
    frozen = shop.pods("bank")[0]["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
    task = [*shop.control.within, "ctr", "--namespace=k8s.io", "tasks"]
    before = failed(mesh)
    with shop.buyers(within=buyer(mesh)) as told:
        subprocess.run([*task, "pause", frozen], check=True, capture_output=True)
        try:
            shop.control.wait("calls to it end", lambda: failed(mesh) > before)
        finally:
            subprocess.run([*task, "resume", frozen], check=True, capture_output=True)
    shop.kubectl("scale", "deployment/bank", "--replicas=1")
    assert told["errors"] == []
    assert set(told["outcomes"]) == {"paid"}
    shop.proven()


def test_a_canary_gets_its_share(examples: Mesh) -> None:
    shop = examples.shop
    examples.canary("codebank:local")
    try:
        examples.apply("canary")
        tracks = {pod["metadata"]["labels"]["codebank.example/track"]: pod for pod in shop.pods("bank")
                  if "codebank.example/track" in pod["metadata"]["labels"]}  # fmt: skip
        before = {track: shop.decided(pod) for track, pod in tracks.items()}
        with shop.buyers(within=buyer(examples)) as told:
            shop.control.wait(
                "both decided enough", lambda: shop.decided(tracks["stable"]) - before["stable"] >= 400, 180
            )
        shares = {track: shop.decided(pod) - before[track] for track, pod in tracks.items()}
    finally:
        shop.kubectl("delete", "deployment", "bank-canary", "--ignore-not-found", "--wait")
    say(f"payments decided: {shares}")

    assert told["errors"] == []
    # A tenth, four standard deviations of so many calls to either side.
    assert 0.04 < shares["canary"] / sum(shares.values()) < 0.16
    shop.proven()


def test_istio_finds_nothing_wrong_with_the_cluster(mesh: Mesh) -> None:
    command = [*mesh.shop.control.within, program("istioctl", "istioctl"), "analyze", "--namespace=codebank",
               f"--kubeconfig={mesh.shop.control.pki}/admin.kubeconfig", "--output=json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")

    assert [one for one in found if one["level"] != "Info"] == [], done.stderr
