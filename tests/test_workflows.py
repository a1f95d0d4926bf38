"""What the workflows promise: make targets and nothing else, few rights, versions, an end in any case."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: Whose actions are used: GitHub's, Docker's, and PyPI's own for publishing.
PUBLISHERS = {"actions", "docker", "pypa"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["jobs"]
    return found


def steps(file: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(file).values() for step in job["steps"]]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_there_are_the_three() -> None:
    assert [file.stem for file in FILES] == ["ci", "deploy", "release"]


@each_file
def test_a_step_runs_one_make_target_that_exists(file: Path) -> None:
    for step in steps(file):
        if "run" in step:
            found = re.fullmatch(r"make ([a-z-]+)", step["run"])
            assert found, step["run"]
            assert found[1] in targets()


@each_file
def test_nobody_has_more_rights_than_its_job_needs(file: Path) -> None:
    assert yaml.safe_load(file.read_text())["permissions"] == {}
    for name, job in jobs(file).items():
        assert job["permissions"]["contents"] == "read"
        assert set(job["permissions"]) <= {"contents", "packages", "id-token", "attestations"}
        # Longer are only those that build, or wait for a cluster.
        assert job["timeout-minutes"] <= (45 if name in {"kubernetes", "image", "deploy"} else 15)


@each_file
def test_actions_are_their_publishers_own_and_have_a_version(file: Path) -> None:
    for step in steps(file):
        if "uses" in step:
            name, _, version = step["uses"].partition("@")
            assert name.partition("/")[0] in PUBLISHERS
            assert re.fullmatch(r"v\d+(\.\d+)*|release/v1", version), step["uses"]
            if name == "actions/checkout":
                assert step["with"]["persist-credentials"] is False


def test_the_matrix_holds_every_python_that_the_package_allows() -> None:
    versions = jobs(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"]["matrix"]["python"]

    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


@each_file
def test_jobs_that_run_every_test_have_the_release_before_in_their_history(file: Path) -> None:
    for job in jobs(file).values():
        for step in job["steps"]:
            if step.get("run") in ("make test", "make coverage"):
                assert step["env"] == {"TEST_RELEASE": "required"}
                assert job["steps"][0]["with"]["fetch-depth"] == 0
