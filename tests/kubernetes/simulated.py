"""Nodes that are only said to be: the real scheduler places real pods on them, kwok tells that they run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.kubernetes.control import Control
from tests.kubernetes.tools import TOOLS, module_folder, program

#: Node → zone.
NODES: Final = {"node-a": "zone-a", "node-b": "zone-b", "node-c": "zone-c"}
_NODE: Final = """\
apiVersion: v1
kind: Node
metadata:
  name: {name}
  annotations: {{kwok.x-k8s.io/node: fake}}
  labels: {{kubernetes.io/hostname: {name}, topology.kubernetes.io/zone: {zone}, kubernetes.io/os: linux}}
status:
  allocatable: {{cpu: "16", memory: 64Gi, pods: "110", ephemeral-storage: 100Gi}}
  capacity: {{cpu: "16", memory: 64Gi, pods: "110", ephemeral-storage: 100Gi}}
---
"""


def start_simulation(control: Control) -> None:
    """Start kwok, and wait until its nodes are ready."""
    stages = control.work / "stages.yaml"
    stages.write_text("\n---\n".join(file.read_text() for file in _stages()))
    control.begin(
        "kwok", program("kwok", "kwok"), f"--kubeconfig={control.pki}/admin.kubeconfig", f"--config={stages}",
        "--manage-all-nodes=true", "--node-lease-duration-seconds=0", "--server-address=",
    )  # fmt: skip
    control.kubectl(
        "apply", "-f", "-", given="".join(_NODE.format(name=name, zone=zone) for name, zone in NODES.items())
    )
    control.wait("simulated nodes", lambda: all(_is_ready(control, name) for name in NODES))


def _stages() -> list[Path]:
    """Give kwok's own description of what nodes and pods go through."""
    folder = module_folder(TOOLS["kwok"].module, TOOLS["kwok"].version) / "kustomize" / "stage"
    wanted = [folder / "node" / "fast", folder / "node" / "heartbeat", folder / "pod" / "general"]
    return [file for place in wanted for file in sorted(place.glob("*.yaml")) if file.name != "kustomization.yaml"]


def _is_ready(control: Control, name: str) -> bool:
    conditions = control.read("node", name)["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
