"""A real node: kubelet, containerd and kube-proxy in namespaces of their own, with our images."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.docker.engine import Engine, run
from tests.kubernetes.control import Control, Ports
from tests.kubernetes.tools import CACHE, Missing, build, program, say

_HERE: Final = Path(__file__).parent / "node"
_PACKAGES: Final = {
    "containerd": "containerd", "runc": "runc", "nft": "nftables", "ip": "iproute2", "conntrack": "conntrack",
}  # fmt: skip
_CNI: Final = Path("/usr/lib/cni")
_CGROUPS: Final = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
_PAUSE: Final = "codebank-test/pause:local"
_SOCKET: Final = "/run/containerd/containerd.sock"
_PORTS: Final = Ports(6443, 2379, 2380, 10257, 10259)
_ADDRESS: Final = "10.77.0.1"


def require_machine() -> None:
    """Install what a node needs. Raises Missing saying what this machine cannot give."""
    if os.geteuid() != 0:
        raise Missing("only root can make a node's namespaces")
    if not Path("/sys/fs/cgroup/memory").is_dir():
        raise Missing("the node of these tests knows cgroup v1 only; kind or minikube run the manifests elsewhere")
    missing = [package for name, package in _PACKAGES.items() if shutil.which(name, path=_path()) is None]
    missing += [] if (_CNI / "bridge").exists() else ["containernetworking-plugins"]
    if missing:
        if shutil.which("apt-get") is None:
            raise Missing(f"{', '.join(missing)} are not here, nor apt-get to install them")
        say(f"installing {', '.join(missing)} (once)")
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing, env=quiet)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass
class Node:
    """One node with its control plane, in namespaces that end with their first process."""

    work: Path
    #: What holds the namespaces, and the first process within them.
    outer: subprocess.Popen[bytes]
    first: int
    control: Control

    @staticmethod
    def open(engine: Engine, images: Sequence[str]) -> Node:
        """Start a node on which these images of the engine are already there."""
        CACHE.mkdir(parents=True, exist_ok=True)
        _clean_up()
        # Containers lie on the disk below: not every file system of a temporary folder can hold their layers.
        work = Path(tempfile.mkdtemp(prefix="node-", dir=CACHE))
        outer, first = _unshare(work)
        enter = [str(_HERE / "enter.sh"), str(first)]
        control = Control(work, _PORTS, "0.0.0.0", _ADDRESS, enter)
        node = Node(work, outer, first, control)
        try:
            node._write_configuration()
            control.begin("containerd", "containerd", "--config", str(work / "containerd.toml"))
            control.wait("containerd", lambda: not _fails([*enter, "ctr", "--address", _SOCKET, "version"]))
            node.load(engine, _pause(engine), *images)
            control.start_api()
            control.start_controllers()
            node._start_node()
        except BaseException:
            node.close()
            raise
        return node

    def _write_configuration(self) -> None:
        (self.work / "cni").mkdir()
        (self.work / "cni-bin").mkdir()
        for plugin in _CNI.iterdir():
            (self.work / "cni-bin" / plugin.name).symlink_to(plugin)
        places = {"network.conflist": "cni/network.conflist"}
        for name in ("containerd.toml", "kubelet.yaml", "proxy.yaml", "network.conflist", "Corefile"):
            text = (_HERE / name).read_text().replace("{work}", str(self.work))
            (self.work / places.get(name, name)).write_text(text)

    def load(self, engine: Engine, *images: str) -> None:
        """Bring images of the engine to the node."""
        for image in images:
            archive = self.work / "image.tar"
            engine.docker("save", "--output", str(archive), image)
            command = ["ctr", "--address", _SOCKET, "--namespace", "k8s.io", "images", "import", str(archive)]
            run(*self.control.within, *command)
            archive.unlink()

    def _start_node(self) -> None:
        control, work = self.control, self.work
        control.begin(
            "kubelet", program("kubelet", "kubernetes"), f"--config={work}/kubelet.yaml",
            f"--kubeconfig={work}/pki/kubelet.kubeconfig", "--hostname-override=codebank", f"--node-ip={_ADDRESS}",
            f"--root-dir={work}/kubelet",
        )  # fmt: skip
        control.begin("proxy", program("kube-proxy", "kubernetes"), f"--config={work}/proxy.yaml")
        control.begin("coredns", program("coredns", "coredns"), "-conf", f"{work}/Corefile")
        control.wait("the node is ready", self._is_ready, 120)

    def _is_ready(self) -> bool:
        conditions = self.control.read("node", "codebank")["status"]["conditions"]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def close(self) -> None:
        """End the namespaces and all that is in them."""
        self.control.stop()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.first, signal.SIGKILL)
        self.outer.wait(30)
        _clean_up()


def _unshare(work: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the first process of new namespaces, and give its number as this machine counts."""
    within = "".join(f'echo $$ > "{folder}/cgroup.procs"; ' for folder in _own_cgroups())
    spaces = "--mount --net --pid --cgroup --uts --ipc --fork --kill-child"
    command = f'{within}exec unshare {spaces} "{_HERE}/init.sh" "{work}"'
    with (work / "init.log").open("wb") as log:
        outer = subprocess.Popen(["/bin/bash", "-c", command], stdout=log, stderr=subprocess.STDOUT)
    (work / "outer.pid").write_text(str(outer.pid))
    deadline = time.monotonic() + 20
    while not (work / "ready").exists():
        if outer.poll() is not None or time.monotonic() > deadline:
            raise Missing(f"this machine lets nobody make namespaces: {(work / 'init.log').read_text()}")
        time.sleep(0.05)
    return outer, int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])


def _own_cgroups() -> list[Path]:
    """Make a group of our own below that of this process, in every hierarchy."""
    current: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        current |= {name.removeprefix("name="): path for name in names.split(",")}
    folders = []
    for name in _CGROUPS:
        if name not in current:
            continue
        folder = Path("/sys/fs/cgroup") / name / current[name].strip("/") / "codebank-node"
        folder.mkdir(exist_ok=True)
        if name == "cpuset":
            for what in ("cpuset.cpus", "cpuset.mems"):
                (folder / what).write_text((folder.parent / what).read_text())
        folders.append(folder)
    return folders


def _pause(engine: Engine) -> str:
    """Build the image that holds a pod's network."""
    with tempfile.TemporaryDirectory() as made:
        shutil.copy(_HERE / "pause.go", made)
        quiet = os.environ | {"CGO_ENABLED": "0"}
        run("go", "build", "-o", "pause", "pause.go", env=quiet, cwd=Path(made))
        (Path(made) / "Dockerfile").write_text('FROM scratch\nCOPY pause /pause\nUSER 65535\nENTRYPOINT ["/pause"]\n')
        engine.docker("build", "--quiet", "--tag", _PAUSE, made)
    return _PAUSE


def _fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def _clean_up() -> None:
    """Remove what earlier sessions left, those that were cut short too."""
    for work in CACHE.glob("node-*"):
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            outer = int((work / "outer.pid").read_text())
            if str(work).encode() in Path(f"/proc/{outer}/cmdline").read_bytes():
                os.kill(outer, signal.SIGKILL)
        shutil.rmtree(work, ignore_errors=True)


def build_node_tools() -> None:
    """Build the programs of a node."""
    for name in ("etcd", "kubernetes", "coredns"):
        build(name)
