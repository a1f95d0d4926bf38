"""Our image on a real node: sold from, updated, cut off, drained, and proven to the cent after each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from codebank.settings import ROLE_NAMES
from tests.kubernetes.shop import Shop
from tests.kubernetes.tools import say

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600, func_only=True), pytest.mark.xdist_group("kubernetes")]


def test_a_pod_buys_through_the_checkouts_service_and_all_agree(shop: Shop) -> None:
    said = shop.smoke()

    assert [line.split()[2] for line in said.splitlines()] == ["order", "bank", "statement"]
    proof = shop.proven()
    assert proof["parties"] == ["orders", "ledger", "log", "statement"]


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_a_rolling_update_under_load_loses_nothing_and_no_buyer_sees_an_error(shop: Shop, role: str) -> None:
    before = uids(shop, role)
    with shop.buyers() as told:
        shop.kubectl("rollout", "restart", f"deployment/{role}")
        shop.kubectl("rollout", "status", f"deployment/{role}", "--timeout=120s")
        shop.control.wait("the old pod is gone", lambda: not before & uids(shop, role))

    assert told["errors"] == []
    # Decided by the bank, once the card's limit is used up against it; none was given up.
    assert set(told["outcomes"]) <= {"paid", "declined"}
    assert sum(told["outcomes"].values()) > 10
    shop.proven()


def uids(shop: Shop, role: str) -> set[str]:
    """Give the pods of a role, those on their way out too."""
    found = shop.control.read("pod", "-n", "codebank", "-l", f"app.kubernetes.io/name={role}")["items"]
    return {pod["metadata"]["uid"] for pod in found}


def test_calls_are_spread_over_the_banks_replicas_without_a_mesh(shop: Shop) -> None:
    shop.kubectl("scale", "deployment/bank", "--replicas=3")
    try:
        shop.kubectl("rollout", "status", "deployment/bank", "--timeout=120s")
        with shop.buyers() as told:
            shop.control.wait(
                "every replica decides", lambda: all(shop.decided(pod) > 0 for pod in shop.pods("bank")), 180
            )
    finally:
        shop.kubectl("scale", "deployment/bank", "--replicas=1")
    assert told["errors"] == []
    shop.proven()


def test_a_bank_without_its_database_is_not_started_again_and_goes_on_when_it_is_back(shop: Shop) -> None:
    bank = the_only(shop, "bank")
    shop.kubectl("scale", "statefulset/postgres", "--replicas=0")
    try:
        shop.kubectl("wait", "--for=delete", "pod/postgres-0", "--timeout=120s")
        health = f"/api/v1/namespaces/codebank/pods/{bank['metadata']['name']}:9101/proxy/health"
        assert shop.kubectl("get", "--raw", f"{health}/live")
        ready = ("--namespace=codebank", "get", "--raw", f"{health}/ready")
        shop.control.wait("it says that it cannot be used", lambda: shop.control.try_kubectl(*ready).returncode)
    finally:
        shop.kubectl("scale", "statefulset/postgres", "--replicas=1")
        shop.kubectl("rollout", "status", "statefulset/postgres", "--timeout=120s")
        for role in ROLE_NAMES:
            shop.kubectl("rollout", "status", f"deployment/{role}", "--timeout=120s")

    shop.control.wait("a payment is made", lambda: "statement" in shop.smoke())
    (after,) = shop.pods("bank")
    assert after["metadata"]["uid"] == bank["metadata"]["uid"]
    assert restarts(after) == restarts(bank)
    shop.proven()


def the_only(shop: Shop, role: str) -> dict[str, Any]:
    """Wait until a role has one pod, and give it."""
    (pod,) = shop.control.wait(f"one {role}", lambda: len(found := shop.pods(role)) == 1 and found)
    found: dict[str, Any] = pod
    return found


def restarts(pod: dict[str, Any]) -> int:
    return sum(one["restartCount"] for one in pod["status"]["containerStatuses"])


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_a_process_may_nothing_that_it_does_not_need(shop: Shop, role: str) -> None:
    program = (
        "import os, json; status = dict(line.split(':', 1) for line in open('/proc/1/status') if ':' in line);"
        "print(json.dumps({'uid': os.getuid(), 'caps': int(status['CapEff'], 16), 'new': status['NoNewPrivs'].strip(),"
        "'seccomp': status['Seccomp'].strip(), 'token': os.path.exists('/var/run/secrets'),"
        "'writes': [place for place in ('/', '/opt', '/etc', '/var/lib/codebank') if os.access(place, os.W_OK)]}))"
    )
    told = json.loads(shop.kubectl("exec", f"deployment/{role}", "--", "/opt/codebank/bin/python", "-c", program))

    assert told == {"uid": 10001, "caps": 0, "new": "1", "seccomp": "2", "token": False, "writes": []}


def test_an_operator_issues_a_card_in_the_pod_of_a_bank(shop: Shop) -> None:
    told = shop.kubectl("exec", "deployment/bank", "--", "codebank", "card", "issue", "--holder=Rui Costa")
    listed = shop.kubectl("exec", "deployment/audit", "--", "codebank", "card", "list")

    issued = json.loads(told)
    assert issued["card"]["card_id"] in listed


def test_the_statement_is_made_anew_from_the_log_in_the_pod_of_a_projector(shop: Shop) -> None:
    with shop.buyers() as told:
        said = shop.kubectl("exec", "deployment/projector", "--", "codebank", "statement", "rebuild")

    assert "rebuilt from" in said
    assert told["errors"] == []
    shop.proven()


def test_a_version_that_does_not_start_is_taken_back_and_the_shop_goes_on(shop: Shop) -> None:
    broken = {"spec": {"template": {"spec": {"containers": [{"name": "codebank", "image": "codebank:broken"}]}}}}
    with shop.buyers() as told:
        shop.kubectl("patch", "deployment/bank", "--type=strategic", f"--patch={json.dumps(broken)}")
        done = shop.control.try_kubectl("-n", "codebank", "rollout", "status", "deployment/bank", "--timeout=15s")
        assert done.returncode
        shop.kubectl("rollout", "undo", "deployment/bank")
        shop.kubectl("rollout", "status", "deployment/bank", "--timeout=60s")

    assert told["errors"] == []
    shop.proven()


def test_every_role_is_brought_back_to_the_version_before_while_buyers_buy(shop: Shop) -> None:
    shop.roll_out(shop.variant("loud", "app.kubernetes.io/component=role", "CODEBANK_LOG_LEVEL", "debug"))
    assert all("CODEBANK_LOG_LEVEL" in settings(shop, role) for role in ROLE_NAMES)

    with shop.buyers() as told:
        shop.roll_out("node", "--back")
    again = shop.try_roll_out("node", "--back")

    assert told["errors"] == []
    assert not any("CODEBANK_LOG_LEVEL" in settings(shop, role) for role in ROLE_NAMES)
    # What is back already is not turned round once more.
    assert (again.returncode, again.stderr) == (1, "error: no roll-out is known that replaced a version\n")
    shop.proven()


def settings(shop: Shop, role: str) -> set[str]:
    pod = the_only(shop, role)
    return {one["name"] for one in pod["spec"]["containers"][0].get("env", [])}


def test_a_version_that_starts_and_cannot_be_paid_with_is_taken_back(shop: Shop) -> None:
    before = settings(shop, "checkout")
    overlay = shop.variant("unpayable", "app.kubernetes.io/name=checkout", "CODEBANK_BANK_ADDRESS", "bank:1")

    done = shop.try_roll_out(overlay, "--pay")

    assert done.returncode == 1
    assert "error: the payment did not arrive" in done.stderr
    assert "taking checkout back" in done.stdout
    assert "taking bank back" not in done.stdout
    assert settings(shop, "checkout") == before
    assert "statement" in shop.smoke()
    shop.proven()


def test_the_node_is_drained_and_what_it_kept_is_still_there(shop: Shop) -> None:
    before = shop.proven()
    shop.kubectl("drain", "codebank", "--delete-emptydir-data", "--ignore-daemonsets", "--force", "--timeout=180s")
    shop.kubectl("uncordon", "codebank")
    for kind, names in (("statefulset", ("postgres", "kafka")), ("deployment", ROLE_NAMES)):
        for name in names:
            shop.kubectl("rollout", "status", f"{kind}/{name}", "--timeout=180s")
    after = shop.proven()

    assert {one["name"]: one["compared"] for one in after["checks"]} == {
        one["name"]: one["compared"] for one in before["checks"]
    }
    assert "statement" in shop.smoke()


def test_every_pod_stays_within_its_memory(shop: Shop) -> None:
    summary = json.loads(shop.kubectl("get", "--raw", "/api/v1/nodes/codebank/proxy/stats/summary"))
    taken: dict[str, int] = {}
    for pod in summary["pods"]:
        if pod["podRef"]["namespace"] == "codebank":
            for container in pod.get("containers", []):
                name = pod["podRef"]["name"].rsplit("-", 2)[0] if container["name"] == "codebank" else container["name"]
                taken[name] = max(taken.get(name, 0), container["memory"].get("workingSetBytes", 0) // 2**20)
    say("memory in MiB: " + ", ".join(f"{name} {size}" for name, size in sorted(taken.items())))

    for role in ROLE_NAMES:
        (pod,) = shop.pods(role)
        limit = int(pod["spec"]["containers"][0]["resources"]["limits"]["memory"].removesuffix("Mi"))
        assert 0 < taken[role] <= limit * 85 // 100, (role, taken[role], limit)
        assert all(
            one.get("lastState", {}).get("terminated", {}).get("reason") != "OOMKilled"
            for one in pod["status"]["containerStatuses"]
        )
