"""What a run of these tests has shown for real, for the table at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

#: Test file → level, and what it is that runs.
LEVELS: Final = {
    "test_manifests": ("0", "kustomize; manifests compared with the picture"),
    "test_score": ("0", "kube-score"),
    "test_mesh": ("0", "istioctl: analysed, validated, sidecars put in"),
    "test_strimzi": ("0", "Strimzi's own model reads our resources"),
    "test_simulated": ("1-2", "API server with the operators' definitions, scheduler, controllers; nodes simulated"),
    "test_node": ("3", "a node: kubelet, containerd, kube-proxy, CoreDNS, our image"),
    "test_sidecars": ("4", "istiod, Istio's CNI plugin, a sidecar in every pod"),
}
#: What is never run here, and how it is checked instead.
ONLY_READ: Final = (
    ("CloudNativePG, Strimzi, ECK, cert-manager, External Secrets", "definitions or model read; no operator runs"),
    ("NetworkPolicies", "compared with the arrows; the node's network does not enforce them"),
    (
        "request metrics of Istio's own Envoy, Kiali's graph",
        "a stock Envoy has none; Kiali's file has no definition here",
    ),
    ("autoscalers", "accepted and held at their least; no metrics server"),
)


@dataclass
class Outcomes:
    """How the tests of one file ended."""

    counts: Counter[str] = field(default_factory=Counter)
    #: Why some were skipped.
    reasons: Counter[str] = field(default_factory=Counter)


def table(outcomes: Mapping[str, Outcomes]) -> Sequence[str]:
    """Write a line for each level, then what was only read."""
    lines = ["really run:"]
    for name, (level, what) in LEVELS.items():
        found = outcomes.get(name, Outcomes())
        told = ", ".join(f"{count} {word}" for word, count in sorted(found.counts.items())) or "not asked for"
        lines.append(f"  level {level:<3} {what}: {told}")
        lines += [f"            not run: {reason}" for reason in found.reasons]
    lines.append("only read, never run here:")
    return lines + [f"  {what}: {how}" for what, how in ONLY_READ]
