"""The real programs that watch: found on this machine, or unpacked from Debian's packages without being installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kafka.machine import SOFTWARE

#: What each is called here, what others call it, and the Debian package that has it.
PROGRAMS = {
    "prometheus": (("prometheus",), "prometheus"),
    "promtool": (("promtool",), "prometheus"),
    "alertmanager": (("alertmanager", "prometheus-alertmanager"), "prometheus-alertmanager"),
    "amtool": (("amtool",), "prometheus-alertmanager"),
    "node_exporter": (("node_exporter", "prometheus-node-exporter"), "prometheus-node-exporter"),
}
_TEMPLATES = Path("/usr/share/prometheus/alertmanager")


def find_programs() -> dict[str, str]:
    """Find every program; skip by name where one is missing and cannot be had, fail where they are required."""
    mode = os.environ.get("TEST_OBSERVABILITY", "")
    if not mode:
        pytest.skip("starts Prometheus and Alertmanager: `make test-observability` runs it")
    folder = Path(SOFTWARE) / "observability"
    missing = sorted({package for name, (_, package) in PROGRAMS.items() if not _find(name, folder)})
    if missing and os.geteuid() == 0 and shutil.which("apt-get") and shutil.which("dpkg"):
        _unpack(missing, folder)
    found = {name: _find(name, folder) for name in PROGRAMS}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        reason = f"not found: {', '.join(absent)} (in Debian: apt-get install {' '.join(missing)})"
        if mode == "required":
            pytest.fail(f"required here: {reason}")
        pytest.skip(reason)
    return {name: path for name, path in found.items() if path is not None}


def _find(name: str, folder: Path) -> str | None:
    names, _ = PROGRAMS[name]
    places = (shutil.which(one, path=place) for one in names for place in (None, str(folder / "usr" / "bin")))
    return next((place for place in places if place), None)


def _unpack(packages: list[str], folder: Path) -> None:
    """Take the programs out of their packages: none is installed, so that no service is started."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-q", *packages], cwd=folder, capture_output=True, timeout=120, check=False)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], capture_output=True, timeout=60, check=True)
        package.unlink()
    # Debian's Alertmanager has the place of its templates built in, and does not start without them.
    templates = folder / "usr" / "share" / "prometheus" / "alertmanager"
    if templates.exists() and not _TEMPLATES.exists():
        shutil.copytree(templates, _TEMPLATES)
