"""Writes the bank's canary: the Deployment `bank` as it is at work, with another image.

    kubectl -n codebank get deployment bank -o json |
      python3 deploy/istio/canary.py codebank/codebank:0.2.0 | kubectl apply -f -

One replica beside the others; examples/canary.yaml says how many of the payments it gets.
"""

from __future__ import annotations

import json
import sys
from typing import Any

_TRACK = "codebank.example/track"
_KEPT = ("minReadySeconds", "progressDeadlineSeconds", "revisionHistoryLimit", "strategy", "template")


def canary_of(bank: dict[str, Any], image: str) -> dict[str, Any]:
    """Give a Deployment like this one, of another track, with another image."""
    spec = {name: bank["spec"][name] for name in _KEPT if name in bank["spec"]}
    labels = spec["template"]["metadata"]["labels"] | {
        _TRACK: "canary", "app.kubernetes.io/version": image.rpartition(":")[2]
    }  # fmt: skip
    spec["template"]["metadata"]["labels"] = labels
    spec["template"]["spec"]["containers"][0]["image"] = image
    spec["selector"] = {"matchLabels": {name: labels[name] for name in ("app.kubernetes.io/name", _TRACK)}}
    spec["replicas"] = 1
    metadata = {"name": "bank-canary", "namespace": bank["metadata"]["namespace"], "labels": bank["metadata"]["labels"]}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    if len(sys.argv) != 2 or ":" not in sys.argv[1]:
        sys.exit("usage: canary.py IMAGE:VERSION < the Deployment bank as JSON")
    json.dump(canary_of(json.load(sys.stdin), sys.argv[1]), sys.stdout)
