"""The manifests as kustomize renders them."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from tests.kubernetes.tools import Missing, is_built, program

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
OVERLAYS: Final = ("overlays/development", "overlays/production", "overlays/mesh")

Manifest = dict[str, Any]


def find_kubectl() -> str:
    """Give the kubectl of this machine, or the one of the cache. Raises Missing where there is neither."""
    found = shutil.which("kubectl") or (program("kubectl", "kubernetes") if is_built("kubernetes") else None)
    if found is None:
        raise Missing("kubectl is not here: https://kubernetes.io/docs/tasks/tools says how it is had")
    return found


@functools.cache
def deploy_folder() -> Path:
    """Copy deploy/ beside secrets made for this session, so that none is ever made in the tree."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(DEPLOY / "kubernetes", folder / "kubernetes", ignore=shutil.ignore_patterns("secrets", "certs"))
    if (DEPLOY / "istio").exists():
        shutil.copytree(DEPLOY / "istio", folder / "istio")
    development = folder / "kubernetes" / "overlays" / "development"
    subprocess.run([sys.executable, str(DEPLOY / "kubernetes" / "make_secrets.py"), str(development)], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return folder


@functools.cache
def render(folder: str) -> str:
    """Render a folder of deploy/kubernetes."""
    command = [find_kubectl(), "kustomize", str(deploy_folder() / "kubernetes" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.returncode, done.stderr
    # The newest kustomize deprecates without failing: we do not wait for that day.
    assert "deprecated" not in done.stderr, done.stderr
    return done.stdout


def manifests(folder: str) -> list[Manifest]:
    """Give each manifest of a folder."""
    return [one for one in yaml.safe_load_all(render(folder)) if one]


def of_kind(found: Iterable[Manifest], kind: str) -> dict[str, Manifest]:
    """Give those of a kind by name."""
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def pods(found: Iterable[Manifest]) -> dict[str, Manifest]:
    """Give the pod template of whatever makes pods, by the maker's name."""
    makers = ("Deployment", "StatefulSet", "Job")
    return {one["metadata"]["name"]: one["spec"]["template"] for one in found if one["kind"] in makers}
