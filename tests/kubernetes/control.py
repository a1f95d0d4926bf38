"""A control plane of the tests' own: etcd, the API server, and what turns wishes into pods."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.pki import make_identities
from tests.kubernetes.tools import program

_SERVICES: Final = "10.96.0.0/16"
_READY_SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the parts listen on the loopback interface."""

    api: int
    etcd: int
    peer: int
    manager: int
    scheduler: int


@dataclass
class Control:
    """Processes of one cluster, and kubectl for it."""

    work: Path
    ports: Ports
    #: Where the API server listens; more than loopback only in a network of its own.
    bind: str = "127.0.0.1"
    #: Under which address pods find the API server; empty where there are none.
    advertised: str = ""
    #: What a command begins with: nothing, or how to enter the node's namespaces.
    within: Sequence[str] = ()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def pki(self) -> Path:
        """The folder of certificates."""
        return self.work / "pki"

    def begin(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process; what it says is kept in a file."""
        with (self.work / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*self.within, *command], stdout=log, stderr=subprocess.STDOUT)
        self.processes[name] = process
        return process

    def start_api(self) -> None:
        """Start etcd and the API server, and wait until it answers."""
        make_identities(
            self.pki,
            f"https://127.0.0.1:{self.ports.api}",
            ["127.0.0.1", "10.96.0.1", *filter(None, [self.advertised])],
        )
        client, peer = f"http://127.0.0.1:{self.ports.etcd}", f"http://127.0.0.1:{self.ports.peer}"
        self.begin(
            "etcd", program("etcd", "etcd"), f"--data-dir={self.work}/etcd", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}", "--unsafe-no-fsync",
        )  # fmt: skip
        pki = self.pki
        found_at = f"--advertise-address={self.advertised}" if self.advertised else "--endpoint-reconciler-type=none"
        self.begin(
            "api", program("kube-apiserver", "kubernetes"), f"--etcd-servers={client}", f"--bind-address={self.bind}",
            f"--secure-port={self.ports.api}", found_at, f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/api.crt", f"--tls-private-key-file={pki}/api.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/tokens.pub", f"--service-account-signing-key-file={pki}/tokens.key",
            f"--service-cluster-ip-range={_SERVICES}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
            f"--kubelet-client-certificate={pki}/api-to-kubelet.crt",
            f"--kubelet-client-key={pki}/api-to-kubelet.key", "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        self.wait("the API server", lambda: self.try_kubectl("get", "--raw=/readyz").stdout == "ok")

    def start_controllers(self) -> None:
        """Start what makes pods of deployments, and finds nodes for them."""
        pki = self.pki
        self.begin(
            "manager", program("kube-controller-manager", "kubernetes"), f"--kubeconfig={pki}/manager.kubeconfig",
            f"--authentication-kubeconfig={pki}/manager.kubeconfig",
            f"--authorization-kubeconfig={pki}/manager.kubeconfig",
            f"--service-account-private-key-file={pki}/tokens.key", f"--root-ca-file={pki}/ca.crt",
            f"--cluster-signing-cert-file={pki}/ca.crt", f"--cluster-signing-key-file={pki}/ca.key",
            "--use-service-account-credentials", "--bind-address=127.0.0.1", f"--secure-port={self.ports.manager}",
            "--leader-elect=false", "--cluster-cidr=10.244.0.0/16", "--allocate-node-cidrs=true",
            f"--service-cluster-ip-range={_SERVICES}",
        )  # fmt: skip
        self.begin(
            "scheduler", program("kube-scheduler", "kubernetes"), f"--kubeconfig={pki}/scheduler.kubeconfig",
            f"--authentication-kubeconfig={pki}/scheduler.kubeconfig",
            f"--authorization-kubeconfig={pki}/scheduler.kubeconfig", "--bind-address=127.0.0.1",
            f"--secure-port={self.ports.scheduler}", "--leader-elect=false",
        )  # fmt: skip

    def try_kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Ask as the administrator, whatever comes of it."""
        command = [
            *self.within, program("kubectl", "kubernetes"), f"--kubeconfig={self.pki}/admin.kubeconfig", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Ask as the administrator; what is refused fails the test with what was said."""
        done = self.try_kubectl(*arguments, given=given)
        assert not done.returncode, f"kubectl {' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def apply(self, manifests: str, *options: str) -> str:
        """Apply manifests on the server's side, where no field may be unknown."""
        return self.kubectl("apply", "--server-side", "--validate=strict", "--force-conflicts", *options, "-f", "-",
                            given=manifests)  # fmt: skip

    def read(self, *arguments: str) -> Any:
        """Give what `kubectl get` knows."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def wait(self, what: str, condition: Callable[[], Any], seconds: int = _READY_SECONDS) -> Any:
        """Wait until a condition holds; a process that ended fails the test at once."""
        deadline = time.monotonic() + seconds
        said: Exception | None = None
        while True:
            try:
                if found := condition():
                    return found
                said = None
            except (AssertionError, json.JSONDecodeError) as error:
                said = error
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            assert not ended, f"{ended} ended:\n{self.said(ended[0])}"
            assert time.monotonic() < deadline, f"it did not come to pass in {seconds} s: {what}; {said or ''}"
            time.sleep(0.2)

    def said(self, name: str) -> str:
        """Give the end of what a process said."""
        return (self.work / f"{name}.log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """End what was started, the last first."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
