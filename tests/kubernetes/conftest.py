"""Fixtures of the real programs of Kubernetes, and the table of what was really run and what was only read."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.bases import base_images
from tests.docker.engine import Engine, open_engine
from tests.docker.engine import Missing as EngineMissing
from tests.docker.system import IMAGE
from tests.kubernetes.control import Control, Ports
from tests.kubernetes.levels import Outcomes, table
from tests.kubernetes.node import Node, require_machine
from tests.kubernetes.rendered import find_kubectl
from tests.kubernetes.shop import STANDINS, Shop
from tests.kubernetes.simulated import start_simulation
from tests.kubernetes.tools import Missing, build, is_built, say
from tests.system import free_port

#: `cached`: what needs nothing built or installed. `on`: all that this machine can. `required`: all, or fail.
MODE = os.environ.get("TEST_KUBERNETES", "")
#: What the tests of a module run. All of it is built before the first test: no test may take as long as a build.
PROGRAMS = {
    "test_mesh": ("istioctl",),
    "test_score": ("kube-score",),
    "test_simulated": ("etcd", "kubernetes", "kwok", "istioctl"),
    "test_node": ("etcd", "kubernetes", "coredns"),
    "test_sidecars": ("etcd", "kubernetes", "coredns", "istio", "istioctl", "istio-cni"),
}
#: Tool → why it could not be built.
_unbuilt: dict[str, str] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests run, where it is missing."""
    if MODE not in ("on", "required") or session.config.option.collectonly:
        return
    modules = {item.path.stem for item in session.items}
    wanted = [tool for module, tools in PROGRAMS.items() if module in modules for tool in tools]
    for tool in dict.fromkeys(wanted):
        try:
            build(tool)
        except Missing as error:
            _unbuilt[tool] = str(error)


def refuse(why: str) -> None:
    """Skip by name, or fail where it is required."""
    if MODE == "required":
        pytest.fail(f"required here: {why}")
    pytest.skip(why)


def need(*tools: str) -> None:
    """See to it that programs are there."""
    if not MODE:
        pytest.skip("runs Kubernetes: `make test-kubernetes` runs it")
    missing = [tool for tool in tools if not is_built(tool)]
    if missing and MODE == "cached":
        pytest.skip(f"{', '.join(missing)} not built here yet: `make test-kubernetes` builds and runs it")
    for tool in missing:
        refuse(_unbuilt.get(tool) or f"{tool} is not built")


@pytest.fixture(scope="session")
def kubectl() -> str:
    """Give kubectl, which renders the manifests; skip by name where it is missing, fail where it is asked for."""
    try:
        return find_kubectl()
    except Missing as error:
        if MODE in ("required", "cached"):
            pytest.fail(f"required here: {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def simulated() -> Iterator[Control]:
    """Give a real control plane whose nodes are simulated: pods are placed, no container runs."""
    need("etcd", "kubernetes", "kwok")
    work = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    began = time.monotonic()
    control = Control(work, Ports(*(free_port() for _ in range(5))))
    try:
        control.start_api()
        control.start_controllers()
        start_simulation(control)
        say(f"a control plane with simulated nodes is ready after {time.monotonic() - began:.0f} s")
        yield control
    finally:
        control.stop()
        shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give an engine with our image and stand-ins for the servers, to bring them to a node."""
    if MODE == "cached":
        pytest.skip("runs containers on a node: `make test-kubernetes` runs it")
    need("etcd", "kubernetes", "coredns")
    try:
        engine = open_engine()
    except EngineMissing as error:
        refuse(str(error))
    try:
        engine.settings |= base_images(engine)
        python = engine.settings["PYTHON_IMAGE"]
        engine.docker(
            "build", "--file", "deploy/Dockerfile", "--build-arg", f"PYTHON_IMAGE={python}", "--tag", IMAGE, "."
        )
        engine.docker("tag", IMAGE, STANDINS["codebank"])
        engine.docker("tag", engine.settings["IMAGE_POSTGRES"], STANDINS["postgres"])
        engine.docker("tag", engine.settings["IMAGE_KAFKA"], STANDINS["apache/kafka"])
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def node(engine: Engine) -> Iterator[Node]:
    """Give a real node that has our images."""
    try:
        require_machine()
        node = Node.open(engine, list(STANDINS.values()))
    except Missing as error:
        refuse(str(error))
    try:
        yield node
    finally:
        node.close()


@pytest.fixture(scope="session")
def shop(node: Node) -> Shop:
    """Give the development overlay, as it runs on the node."""
    shop = Shop(node.control)
    shop.deploy()
    return shop


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was really run and what was only read."""
    if not MODE:
        return
    outcomes: dict[str, Outcomes] = {}
    for word in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(word):
            if word != "passed" or report.when == "call":
                name = Path(report.nodeid.partition("::")[0]).stem
                found = outcomes.setdefault(name, Outcomes())
                found.counts[word] += 1
                if word == "skipped" and isinstance(report.longrepr, tuple):
                    found.reasons[report.longrepr[2].removeprefix("Skipped: ")] += 1
    terminalreporter.section("what was really run")
    for line in table(outcomes):
        terminalreporter.write_line(line)
