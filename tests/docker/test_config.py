"""Compose itself finds nothing wrong with any of the three sizes, and gives each the services that it should have."""

from __future__ import annotations

import json

import pytest

from tests.docker.engine import Engine, run
from tests.docker.system import FILE, FULL_FILE
from tests.docker.test_files import SIZES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

CHOICES = {
    "default": ["-f", FILE],
    "observability": ["-f", FILE, "--profile", "observability"],
    "full": ["-f", FILE, "-f", FULL_FILE],
}


@pytest.mark.parametrize("size", CHOICES)
def test_compose_reads_the_files_as_the_other_tests_do(engine: Engine, size: str) -> None:
    done = run("docker", "compose", *CHOICES[size], "config", "--format", "json", env=engine.environment)

    assert done.stderr == ""
    read = json.loads(done.stdout)
    assert read["name"] == ("codebank-full" if size == "full" else "codebank")
    assert set(read["services"]) == set(SIZES[size])
    for name, service in read["services"].items():
        ours = SIZES[size][name]
        assert service.get("environment", {}).keys() == ours.get("environment", {}).keys(), name
        assert service["user"] == ours["user"], name
        assert service.get("depends_on", {}).keys() == ours.get("depends_on", {}).keys(), name
