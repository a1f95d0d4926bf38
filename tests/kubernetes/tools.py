"""The real programs that read our manifests, built once from their published modules into a cache outside the tree.

    python -m tests.kubernetes.tools [NAME…]

builds what is missing. A cold build of Kubernetes takes a quarter of an hour on two cores, of Istio ten minutes.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(
    os.environ.get("CODEBANK_TOOLS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codebank-tools"
)
_KUBERNETES: Final = "v1.37.2"
_ISTIO: Final = "v0.0.0-20260827124520-eed52ebb66ad"  # 1.31
_BUILD_SECONDS: Final = 3600


class Missing(Exception):
    """A program that is not on this machine, and what would bring it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Programs of one module."""

    module: str
    version: str
    #: The program's name → its package.
    programs: Mapping[str, str]
    #: Packages in which a program keeps its version.
    stamped: Sequence[str] = ()
    tags: str = ""


def _kubernetes(*programs: str) -> dict[str, str]:
    return {program: f"k8s.io/kubernetes/cmd/{program}" for program in programs}


TOOLS: Final = {
    "kubernetes": Tool(
        "k8s.io/kubernetes",
        _KUBERNETES,
        _kubernetes("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
        ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"),
    ),
    "etcd": Tool("go.etcd.io/etcd/server/v3", "v3.7.3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    "kwok": Tool("sigs.k8s.io/kwok", "v0.8.0", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    "coredns": Tool("github.com/coredns/coredns", "v1.15.0", {"coredns": "github.com/coredns/coredns"}),
    "kube-score": Tool(
        "github.com/zegl/kube-score", "v1.20.0", {"kube-score": "github.com/zegl/kube-score/cmd/kube-score"}
    ),
    "buf": Tool("github.com/bufbuild/buf", "v1.75.0", {"buf": "github.com/bufbuild/buf/cmd/buf"}),
    "oasdiff": Tool("github.com/oasdiff/oasdiff", "v1.36.0", {"oasdiff": "github.com/oasdiff/oasdiff"}),
    "osv-scanner": Tool(
        "github.com/google/osv-scanner/v2",
        "v2.5.0",
        {"osv-scanner": "github.com/google/osv-scanner/v2/cmd/osv-scanner"},
    ),
    "actionlint": Tool(
        "github.com/rhysd/actionlint", "v1.7.12", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}
    ),
    "istioctl": Tool("istio.io/istio", _ISTIO, {"istioctl": "istio.io/istio/istioctl/cmd/istioctl"}),
    "istio": Tool(
        "istio.io/istio",
        _ISTIO,
        {
            "pilot-agent": "istio.io/istio/pilot/cmd/pilot-agent",
            "pilot-discovery": "istio.io/istio/pilot/cmd/pilot-discovery",
        },
    ),
    "istio-cni": Tool("istio.io/istio", _ISTIO, {"istio-cni": "istio.io/istio/cni/cmd/istio-cni"}),
}


def say(text: str) -> None:
    """Tell the person who waits how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.__stderr__, flush=True)


def folder_of(name: str) -> Path:
    """Say where a tool's programs lie, built or not; another version lies elsewhere."""
    return CACHE / f"{name}-{TOOLS[name].version}"


def is_built(name: str) -> bool:
    """Tell whether a tool is in the cache."""
    return folder_of(name).is_dir()


def build(name: str) -> Path:
    """Build a tool where it is missing, and give the folder of its programs. Raises Missing where Go is not here."""
    tool, folder = TOOLS[name], folder_of(name)
    if is_built(name):
        return folder
    if shutil.which("go") is None:
        raise Missing(f"{name} is not in {CACHE}, nor Go to build it")
    say(f"building {name} {tool.version} (once)")
    began = time.monotonic()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        source, programs = Path(made) / "source", Path(made) / "programs"
        source.mkdir()
        programs.mkdir()
        # A module of our own that names the programs as its tools: `go install` refuses a module that replaces others.
        (source / "go.mod").write_text(_module_file(tool))
        _go(source, "get", "-tool", *(f"{package}@{tool.version}" for package in tool.programs.values()))
        for program, package in tool.programs.items():
            _go(source, "build", "-trimpath", *_flags(tool), "-o", str(programs / program), package)
        # Renamed when whole, so that a build that was cut short is never taken for one.
        programs.rename(folder)
    say(f"built {name} in {time.monotonic() - began:.0f} s")
    return folder


def program(name: str, tool: str) -> str:
    """Give the path of a program of a tool that is built."""
    return str(folder_of(tool) / name)


@functools.cache
def module_folder(module: str, version: str) -> Path:
    """Fetch a published module, and give its folder: operators publish their definitions in theirs."""
    if shutil.which("go") is None:
        raise Missing(f"Go is not here to fetch {module}")
    return Path(_download(module, version)["Dir"])


def _download(module: str, version: str) -> dict[str, str]:
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{module}@{version}"],
        capture_output=True, text=True, check=False, timeout=600, cwd=tempfile.gettempdir(),
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout or "{}")
    if done.returncode or "Error" in found:
        raise Missing(f"{module} {version} cannot be fetched: {found.get('Error', done.stderr)}")
    return found


def _module_file(tool: Tool) -> str:
    """Write a module that takes over what the tool's own module says of itself."""
    upstream = Path(_download(tool.module, tool.version)["GoMod"]).read_text()
    lines = ["module tools", "", *re.findall(r"^(?:go|godebug) .*$", upstream, re.MULTILINE)]
    # Kubernetes keeps parts of itself beside it; they are published under the same number.
    staged = re.findall(r"^\s*(\S+) => \./staging/", upstream, re.MULTILINE)
    lines += [f"replace {part} => {part} v0{tool.version[2:]}" for part in staged]
    return "\n".join(lines) + "\n"


def _flags(tool: Tool) -> list[str]:
    _, major, minor, _ = re.split(r"[v.]", tool.version, maxsplit=3)
    said = {"gitVersion": tool.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = [f"-X {place}.{key}={value}" for place in tool.stamped for key, value in said.items()]
    return ["-ldflags", " ".join(["-s", "-w", *stamps]), *(["-tags", tool.tags] if tool.tags else [])]


def _go(source: Path, *arguments: str) -> None:
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
    # Whoever builds goes on working meanwhile.
    done = subprocess.run(
        ["nice", "-n", "19", "go", *arguments],
        cwd=source, env=environment, capture_output=True, text=True, check=False, timeout=_BUILD_SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise Missing(f"go {' '.join(arguments[:2])}…: {done.stderr[-3000:]}")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or TOOLS:
        sys.stdout.write(f"{build(wanted)}\n")
