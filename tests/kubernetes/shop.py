"""Codebank on a real node: deployed as users deploy it, bought from by a pod, and proven."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.docker.system import RAISE_LIMITS
from tests.kubernetes.control import Control
from tests.kubernetes.rendered import ROOT, deploy_folder
from tests.kubernetes.tools import program

#: The image that a manifest names → what the node has under which name.
STANDINS: Final = {
    "codebank": "codebank:local",
    "postgres": "codebank-test/postgres:local",
    "apache/kafka": "codebank-test/kafka:local",
}
#: On top of the development overlay: images and volumes of this node.
_OVERLAY: Final = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../development, volumes.yaml]
images:
{images}
"""
#: The same with another setting of some roles.
_VARIANT: Final = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../node]
patches:
  - target: {{kind: Deployment, labelSelector: "{selector}"}}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {{name: any}}
      spec: {{template: {{spec: {{containers: [{{name: codebank, env: [{{name: {name}, value: "{value}"}}]}}]}}}}}}
"""
_VOLUME: Final = """\
apiVersion: v1
kind: PersistentVolume
metadata: {{name: data-{store}}}
spec:
  accessModes: [ReadWriteOnce]
  capacity: {{storage: 2Gi}}
  claimRef: {{namespace: codebank, name: data-{store}-0}}
  hostPath: {{path: "{path}"}}
---
"""


@dataclass
class Shop:
    """The six roles, PostgreSQL and one Kafka broker as pods."""

    control: Control

    def deploy(self) -> str:
        """Roll the development overlay out by the program that users run, and give what it printed."""
        overlay = deploy_folder() / "kubernetes" / "overlays" / "node"
        overlay.mkdir(exist_ok=True)
        names = {image: standin.rpartition(":") for image, standin in STANDINS.items()}
        images = [f"  - {{name: {image}, newName: {name}, newTag: {tag}}}" for image, (name, _, tag) in names.items()]
        (overlay / "kustomization.yaml").write_text(_OVERLAY.format(images="\n".join(images)))
        volumes = []
        for store in ("postgres", "kafka"):
            path = self.control.work / "volumes" / store
            path.mkdir(parents=True, exist_ok=True)
            # A volume of a provisioner's would belong to the pod's group; a folder must let anybody in.
            path.chmod(0o777)
            volumes.append(_VOLUME.format(store=store, path=path))
        (overlay / "volumes.yaml").write_text("".join(volumes))
        told = self.roll_out("node")
        # The demo's cardholder buys for thousands here.
        self.kubectl("exec", "postgres-0", "--", *RAISE_LIMITS)
        return told

    def roll_out(self, overlay: str, *options: str) -> str:
        """Run the roll-out of an overlay, and give what it printed."""
        return self._run("roll_out.py", overlay, "--timeout=240", *options)

    def try_roll_out(self, overlay: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a roll-out that may fail."""
        return self._try("roll_out.py", overlay, "--timeout=240", *options)

    def variant(self, overlay: str, selector: str, name: str, value: str) -> str:
        """Write an overlay in which the chosen roles have another setting, and give its name."""
        folder = deploy_folder() / "kubernetes" / "overlays" / overlay
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(_VARIANT.format(selector=selector, name=name, value=value))
        return overlay

    def _run(self, script: str, *arguments: str) -> str:
        done = self._try(script, *arguments)
        assert not done.returncode, f"{done.stdout}{done.stderr}\n{self.picture()}"
        return done.stdout

    def _try(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(deploy_folder() / "kubernetes" / script), *arguments],
            env=os.environ | {"KUBECTL": " ".join(self.command())}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def command(self) -> list[str]:
        """Say how kubectl is called for this node."""
        config = f"--kubeconfig={self.control.pki}/admin.kubeconfig"
        return [*self.control.within, program("kubectl", "kubernetes"), config]

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Ask about our namespace."""
        return self.control.kubectl("--namespace=codebank", *arguments, given=given)

    def picture(self) -> str:
        """Tell how every pod is, for whoever reads a failure."""
        said = [self.control.try_kubectl("get", "pods", "-A", "-o", "wide").stdout]
        for pod in self.control.read("pod", "-n", "codebank")["items"]:
            if not all(one.get("ready") for one in pod["status"].get("containerStatuses", [{}])):
                name = pod["metadata"]["name"]
                said.append(self.control.try_kubectl("describe", "pod", name, "-n", "codebank").stdout[-1500:])
                said.append(
                    self.control.try_kubectl("logs", name, "-n", "codebank", "--all-containers", "--tail=20").stdout
                )
        return "\n".join(said)

    def smoke(self) -> str:
        """Pay once by the program that users run, and give what it printed."""
        return self._run("smoke.py")

    def pods(self, role: str) -> list[dict[str, Any]]:
        """Give the pods of a role that are not on their way out."""
        found = self.control.read("pod", "-n", "codebank", "-l", f"app.kubernetes.io/name={role}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def decided(self, pod: dict[str, Any]) -> int:
        """Count the payments that one of the bank's pods decided."""
        return self.counted(pod, 9101, "codebank_payments_total")

    def counted(self, pod: dict[str, Any], port: int, counter: str, *labels: str) -> int:
        """Add up a counter of one pod, where it has these labels."""
        path = f"/api/v1/namespaces/codebank/pods/{pod['metadata']['name']}:{port}/proxy/metrics"
        lines = [line for line in self.kubectl("get", "--raw", path).splitlines() if line.startswith(f"{counter}{{")]
        return sum(int(float(line.split()[-1])) for line in lines if all(label in line for label in labels))

    @contextlib.contextmanager
    def buyers(self, count: int = 3, within: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """Let buyers buy as long as the block lasts; what came of it is known after it.

        They stand on the node, or where a command puts a program of ours that it is given as text.
        """
        python = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.kubernetes.buyers"]
        address = self.control.read("service", "checkout", "-n", "codebank")["spec"]["clusterIP"]
        # Whoever enters other namespaces stands at their root.
        place = (
            [*within, (Path(__file__).parent / "buyers.py").read_text()] if within else [*self.control.within, *python]
        )
        process = subprocess.Popen(
            [*place, f"http://{address}:8000", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        told: dict[str, Any] = {}
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield told
        finally:
            said, _ = process.communicate(timeout=60)
        told |= json.loads(said)

    def prove(self) -> dict[str, Any]:
        """Run the proof in the pod of the audit. Raises RuntimeError where it does not run to its end."""
        done = self.control.try_kubectl(
            "--namespace=codebank", "exec", "deployment/audit", "--", "codebank", "proof", "--json"
        )
        if done.returncode not in {0, 1} or not done.stdout:
            raise RuntimeError(f"the proof did not run: {done.stderr}\n{self.picture()}")
        proof: dict[str, Any] = json.loads(done.stdout)
        return proof

    def proven(self) -> dict[str, Any]:
        """Wait until nothing is on its way, and give the proof. It must agree all the time."""

        def done() -> dict[str, Any] | None:
            proof = self.prove()
            if not proof["agrees"]:
                raise RuntimeError([check for check in proof["checks"] if not check["holds"]])
            return proof if proof["lag_events"] == 0 else None

        found: dict[str, Any] = self.control.wait("nothing is on its way", done, 90)
        return found
