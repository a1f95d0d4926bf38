"""The definitions of what operators know, from their own published modules."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.kubernetes.control import Control
from tests.kubernetes.tools import TOOLS, module_folder

#: Module, version, and its files that define what deploy/ uses.
_PUBLISHED: Final = (
    ("github.com/cloudnative-pg/cloudnative-pg", "v1.27.0", "config/crd/bases/postgresql.cnpg.io_*.yaml"),
    ("github.com/elastic/cloud-on-k8s/v3", "v3.5.0", "config/crds/v1/resources/*.k8s.elastic.co_*.yaml"),
    ("github.com/cert-manager/cert-manager", "v1.21.2", "deploy/crds/cert-manager.io_*.yaml"),
    ("github.com/external-secrets/external-secrets", "v1.3.2", "config/crds/bases/external-secrets.io_*.yaml"),
    ("github.com/prometheus-operator/prometheus-operator", "v0.85.0",
     "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    ("istio.io/istio", TOOLS["istio"].version, "manifests/charts/base/files/crd-all.gen.yaml"),
)  # fmt: skip


def definition_files() -> list[Path]:
    """Give the files. Raises Missing where a module cannot be fetched."""
    found = []
    for module, version, pattern in _PUBLISHED:
        files = sorted(module_folder(module, version).glob(pattern))
        assert files, f"{module} {version} has no {pattern}"
        found += files
    return found


def define(control: Control) -> None:
    """Teach an API server what the operators know."""
    for file in definition_files():
        control.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))
    control.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
