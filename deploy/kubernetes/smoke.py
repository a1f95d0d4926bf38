"""Pays once in the cluster, from a pod beside the shop, and follows the payment to the statement.

    python3 deploy/kubernetes/smoke.py

Exit 0 only if the payment arrived. Buys with the demo's card, so it needs an installation that has the demo.
"""

from __future__ import annotations

import json
import sys
import time

from cluster import IN_NAMESPACE, NAMESPACE, Failed, kubectl

_SECONDS = 120


def pod(image: str) -> str:
    """Write the pod that buys; the network lets pods of this name reach the shop and the statement."""
    guard = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    places = {"CODEBANK_CHECKOUT_URL": "http://checkout:8000", "CODEBANK_STATEMENT_URL": "http://statement:8010"}
    container = {
        "name": "codebank",
        "image": image,
        "args": ["pay"],
        "env": [{"name": name, "value": value} for name, value in places.items()],
        "securityContext": guard,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
    }
    spec = {
        "serviceAccountName": "buyer",
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    labels = {"app.kubernetes.io/name": "buyer", "app.kubernetes.io/part-of": "codebank"}
    metadata = {"name": "buyer", "namespace": NAMESPACE, "labels": labels}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def pay() -> bool:
    """Start the pod, wait until it ended, print what it said. Raises Failed where it does not end."""
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    image = kubectl("get", "deployment", "checkout", IN_NAMESPACE, f"--output={path}").stdout
    kubectl("delete", "pod", "buyer", IN_NAMESPACE, "--ignore-not-found", "--wait")
    kubectl("apply", "-f", "-", given=pod(image))
    deadline = time.monotonic() + _SECONDS
    while True:
        phase = kubectl("get", "pod", "buyer", IN_NAMESPACE, "--output=jsonpath={.status.phase}").stdout
        if phase in {"Succeeded", "Failed"}:
            break
        if time.monotonic() > deadline:
            raise Failed(f"the payment did not end within {_SECONDS} s: the pod is {phase}")
        time.sleep(0.5)
    sys.stdout.write(kubectl("logs", "buyer", IN_NAMESPACE).stdout)
    kubectl("delete", "pod", "buyer", IN_NAMESPACE, "--wait=false")
    return phase == "Succeeded"


if __name__ == "__main__":
    try:
        sys.exit(0 if pay() else 1)
    except Failed as error:
        sys.exit(f"error: {error}")
