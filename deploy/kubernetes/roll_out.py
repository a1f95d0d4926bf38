"""Rolls an overlay out in the order in which its parts need each other; takes back what does not serve.

    python3 deploy/kubernetes/roll_out.py development [--platform] [--pay]

Stores first, then databases, migrations and topics, then the roles, each until the new pods are ready and the old ones
gone. Needs only Python and kubectl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from cluster import IN_NAMESPACE, Failed, kubectl
from smoke import pay

HERE = Path(__file__).parent
ROLES = ("bank", "relay", "projector", "checkout", "statement", "audit")
_IS = "app.kubernetes.io/component"
#: On a role's deployment: which of its templates was at work before the last roll-out.
_BEFORE = "codebank.example/before"
#: Which template it has now; the deployment controller counts.
_REVISION = "deployment.kubernetes.io/revision"
#: What the operators tell of what they run, and how long it may take.
_PLATFORM_READY = {
    "cluster.postgresql.cnpg.io/postgres": "condition=Ready",
    "kafka.kafka.strimzi.io/kafka": "condition=Ready",
    "elasticsearch.elasticsearch.k8s.elastic.co/search": "jsonpath={.status.phase}=Ready",
    "kafkaconnect.kafka.strimzi.io/connect": "condition=Ready",
}


def say(text: str) -> None:
    """Tell how far it is."""
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stdout.flush()


def apply(manifests: str, selector: str) -> None:
    """Apply those manifests that carry the labels."""
    kubectl("apply", "--server-side", "--force-conflicts", f"--selector={selector}", "-f", "-", given=manifests)


def roll_out(overlay: str, with_platform: bool, with_payment: bool, seconds: int) -> None:
    """Bring everything to the cluster. Raises Failed where a part does not become ready, or nobody can pay."""
    # What is not there yet must not be found missing in the middle.
    manifests = kubectl("kustomize", str(HERE / "overlays" / overlay)).stdout
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(HERE / "base" / "namespace.yaml"))
    if with_platform:
        prepare_platform(seconds)
    say("settings, secrets, policies, stores")
    apply(manifests, f"{_IS} notin (role,job)")
    for store in names("statefulset", f"{_IS}=store"):
        wait_for("statefulset", store, seconds)
    prepare(manifests, seconds)
    before = {role: annotation(role, _REVISION) for role in ROLES}
    generations = {role: read(role, "{.metadata.generation}") for role in ROLES}
    say("roles")
    apply(manifests, f"{_IS}=role")
    # The same once more changes nothing, nor what can be taken back.
    if any(read(role, "{.metadata.generation}") != generations[role] for role in ROLES):
        for role in ROLES:
            kubectl("annotate", "deployment", role, IN_NAMESPACE, "--overwrite", f"{_BEFORE}={before[role]}")
    try:
        for role in ROLES:
            wait_for("deployment", role, seconds)
        if with_payment and not pay():
            raise Failed("the payment did not arrive")
    except Failed:
        take_back(before, seconds)
        raise


def prepare_platform(seconds: int) -> None:
    """Let the operators run what the roles need."""
    say("what the operators run; the first time takes minutes")
    kubectl("apply", "--server-side", "--force-conflicts", "--kustomize", str(HERE / "platform"))
    for what, condition in _PLATFORM_READY.items():
        kubectl("wait", what, IN_NAMESPACE, f"--for={condition}", f"--timeout={max(seconds, 900)}s")
        say(f"{what.rpartition('/')[2]} ({what.partition('.')[0]}) is ready")


def prepare(manifests: str, seconds: int) -> None:
    """Run the migrations and wait for them."""
    say("databases, migrations, topics")
    # A job cannot be changed, only made anew.
    kubectl("delete", "job", "prepare", IN_NAMESPACE, "--ignore-not-found", "--wait")
    apply(manifests, f"{_IS}=job")
    deadline = time.monotonic() + seconds
    while True:
        job = json.loads(kubectl("get", "job", "prepare", IN_NAMESPACE, "--output=json").stdout)
        ended = {one["type"] for one in job["status"].get("conditions", []) if one["status"] == "True"}
        if "Complete" in ended:
            return
        if "Failed" in ended or time.monotonic() > deadline:
            told = kubectl("logs", "job/prepare", IN_NAMESPACE, "--all-containers", "--tail=20", check=False)
            raise Failed(f"the databases are not up to date; no role was touched\n{told.stdout}")
        time.sleep(0.5)


def names(kind: str, selector: str) -> list[str]:
    """Give the names of what carries a label."""
    found = kubectl("get", kind, IN_NAMESPACE, f"--selector={selector}", "--output=name").stdout
    return [line.partition("/")[2] for line in found.split()]


def wait_for(kind: str, name: str, seconds: int) -> None:
    """Wait until all its pods are new and ready."""
    kubectl("rollout", "status", f"{kind}/{name}", IN_NAMESPACE, f"--timeout={seconds}s")
    say(f"{name} is ready")


def read(role: str, path: str) -> str:
    """Read a field of a role's deployment; empty where it, or the deployment, is missing."""
    found = kubectl("get", "deployment", role, IN_NAMESPACE, f"--output=jsonpath={path}", check=False)
    return found.stdout.strip() if not found.returncode else ""


def annotation(role: str, name: str) -> str:
    """Read an annotation of a role's deployment; empty where there is none."""
    dots = name.replace(".", "\\.")
    return read(role, f"{{.metadata.annotations.{dots}}}")


def take_back(before: dict[str, str], seconds: int) -> None:
    """Bring each role that was changed back to the template that was at work."""
    for role in ROLES:
        if before[role] and annotation(role, _REVISION) != before[role]:
            say(f"taking {role} back to revision {before[role]}")
            kubectl("rollout", "undo", f"deployment/{role}", IN_NAMESPACE, f"--to-revision={before[role]}")
    for role in ROLES:
        if before[role]:
            wait_for("deployment", role, seconds)
            # It has a new number now, and nothing is left to be taken back.
            kubectl("annotate", "deployment", role, IN_NAMESPACE, f"{_BEFORE}-")


def back(seconds: int) -> None:
    """Bring each role that the last roll-out changed back; done twice, it changes nothing more."""
    before = {role: annotation(role, _BEFORE) for role in ROLES}
    if not any(before.values()):
        raise Failed("no roll-out is known that replaced a version")
    take_back(before, seconds)


def main() -> None:
    """Read what was typed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("overlay", help="a folder of deploy/kubernetes/overlays")
    parser.add_argument(
        "--platform", action="store_true", help="let the operators run PostgreSQL, Kafka and the rest first"
    )
    parser.add_argument(
        "--pay",
        action="store_true",
        help="pay once at the end with the demo's card; take the roles back if it fails",
    )
    parser.add_argument(
        "--back", action="store_true", help="bring the roles back to what was at work before, and do no more"
    )
    parser.add_argument("--timeout", type=int, default=300, help="seconds that each part may take")
    given = parser.parse_args()
    if not (HERE / "overlays" / given.overlay / "kustomization.yaml").exists():
        parser.error(f"no overlay {given.overlay!r} in deploy/kubernetes/overlays")
    try:
        if given.back:
            back(given.timeout)
            return
        roll_out(given.overlay, given.platform, given.pay, given.timeout)
    except Failed as error:
        sys.exit(f"error: {error}")
    say("rolled out")


if __name__ == "__main__":
    main()
