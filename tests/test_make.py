"""`make` does the same on every machine: what pip and Python are told for other projects does not reach its recipes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def seen_by_a_recipe(folder: Path, **variables: str) -> dict[str, str]:
    """Give the environment that a recipe of the Makefile sees."""
    probe = folder / "probe.mk"
    probe.write_text(f"include {ROOT / 'Makefile'}\nprobe:\n\t@env -0\n")
    told = subprocess.run(
        ["make", "--silent", "--file", str(probe), "probe"],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split("=", 1) for line in told.stdout.split("\0") if line)


@pytest.mark.parametrize(
    "name",
    [
        "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PIP_CONSTRAINT", "PIP_NO_DEPS",
        "PIP_DRY_RUN", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_PYTHON", "PYTHONHOME", "PYTHONPATH",
        "PYTHONSTARTUP", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONSAFEPATH", "PYTHONUSERBASE",
    ],
)  # fmt: skip
def test_trap_c15_what_is_meant_for_another_project_does_not_reach_a_recipe(name: str, tmp_path: Path) -> None:
    assert name not in seen_by_a_recipe(tmp_path, **{name: "/theirs"})


@pytest.mark.parametrize(
    "name",
    [
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_CERT",
        "PIP_PROXY",
        "PIP_CONFIG_FILE",
        "PYTHONUTF8",
    ],
)
def test_where_packages_come_from_is_the_machines_say(name: str, tmp_path: Path) -> None:
    assert seen_by_a_recipe(tmp_path, **{name: "1"})[name] == "1"


def test_trap_c15_pip_installs_into_the_environment_and_not_for_the_user(tmp_path: Path) -> None:
    assert seen_by_a_recipe(tmp_path, PIP_USER="1")["PIP_USER"] == "0"
