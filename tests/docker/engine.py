"""The container engine of a test session: the one that answers, or one of our own, with compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Outside the tree, kept for the next session: the engine's images, stand-ins for base images, the compose program.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codebank-docker"
#: The newest that Debian's Go toolchain and ours agree on.
_COMPOSE = "github.com/docker/compose/v5/cmd"
_COMPOSE_VERSION = "v5.1.0"
#: What Debian 12's engine speaks.
_DEBIAN_ENGINE_API = "1.41"
_PACKAGES = ("docker.io", "iptables", "debootstrap")


class Missing(Exception):
    """Something that the tests need is not on this machine."""


def say(text: str) -> None:
    """Tell the person who waits how far it is."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.__stderr__, flush=True)


def run(
    *command: str, env: Mapping[str, str] | None = None, check: bool = True, seconds: int = 600, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a program; where it must not fail, tell what it said."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=seconds)
    if check and done.returncode:
        said = f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        raise AssertionError(f"{' '.join(command)}\nexit {done.returncode}\n{said}")
    return done


@dataclass
class Engine:
    """How the engine is reached, and the process where it is our own."""

    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    #: Where an engine of our own keeps what it needs while it runs.
    folder: Path | None = None
    #: Compose's own view of a session: project, ports, images.
    settings: dict[str, str] = field(default_factory=dict)

    def docker(self, *arguments: str, check: bool = True, seconds: int = 600) -> str:
        """Run the client, and give what it printed."""
        return run("docker", *arguments, env=self.environment | self.settings, check=check, seconds=seconds).stdout

    def answers(self) -> bool:
        """Say whether the engine can be used."""
        return not run("docker", "version", env=self.environment, check=False, seconds=30).returncode

    def inspect(self, name: str) -> dict[str, Any]:
        """Give what the engine knows of a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def has_image(self, name: str) -> bool:
        """Say whether an image is here."""
        return not run("docker", "image", "inspect", name, env=self.environment, check=False).returncode

    def clear(self) -> None:
        """Remove what a session left that was cut short: its containers would start again with the engine."""
        for listing, removing in ((["ps", "--all"], ["rm", "--force"]), (["volume", "ls"], ["volume", "rm"])):
            found = self.docker(*listing, "--quiet").split()
            if found:
                self.docker(*removing, *found)
        for kind in ("network", "image"):
            self.docker(kind, "prune", "--force")

    def stop(self) -> None:
        """Stop the engine if it is ours."""
        if self.process is None or self.folder is None:
            return
        if self.process.poll() is None and self.answers():
            self.clear()
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


def open_engine() -> Engine:
    """Find an engine with compose, or start one. Raises Missing saying what is not here."""
    engine = Engine(dict(os.environ))
    has_client = shutil.which("docker") is not None
    if not (has_client and engine.answers()):
        engine = _start_engine()
    if run("docker", "compose", "version", env=engine.environment, check=False).returncode:
        engine.environment["DOCKER_CONFIG"] = str(_build_compose())
    return engine


def _start_engine() -> Engine:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing("no container engine answers, and only root on Debian can start one")
    if not all(shutil.which(program) for program in ("docker", "dockerd", "debootstrap", "iptables")):
        say(f"installing {', '.join(_PACKAGES)} (once)")
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-qq", env=quiet)
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *_PACKAGES, env=quiet)
    CACHE.mkdir(parents=True, exist_ok=True)
    # Short and new: the path of a socket has a limit, and another session's must not be taken over.
    here = Path(tempfile.mkdtemp(prefix="codebank-dockerd-"))
    host = f"unix://{here}/docker.sock"
    say("starting a container engine")
    own = ["--data-root", str(CACHE / "data"), "--exec-root", str(here / "run"), "--pidfile", str(here / "dockerd.pid")]
    with (here / "dockerd.log").open("wb") as log:
        command = ["dockerd", "--host", host, *own]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    environment = os.environ | {
        "DOCKER_HOST": host, "DOCKER_API_VERSION": _DEBIAN_ENGINE_API, "DOCKER_BUILDKIT": "0",
    }  # fmt: skip
    engine = Engine(dict(environment), process, here)
    deadline = time.monotonic() + 60
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            said = (here / "dockerd.log").read_text()[-2000:]
            engine.stop()
            raise Missing(f"the container engine does not start:\n{said}")
        time.sleep(0.2)
    engine.clear()
    return engine


def _build_compose() -> Path:
    """Build compose from its published module, and give the client's folder that holds it."""
    config = CACHE / "config"
    program = config / "cli-plugins" / "docker-compose"
    if not program.exists():
        if shutil.which("go") is None:
            raise Missing("docker compose is not here, nor Go to build it")
        say("building docker compose (once, about three minutes)")
        source = CACHE / "compose"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        (source / "go.mod").write_text("module tools\n\ngo 1.24\n")
        run("go", "get", "-tool", f"{_COMPOSE}@{_COMPOSE_VERSION}", cwd=source)
        program.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when whole, so that a build that was cut short is never taken for one.
        run("go", "build", "-o", str(program.with_suffix(".new")), _COMPOSE, cwd=source)
        program.with_suffix(".new").rename(program)
    return config


def wanted_engine() -> Engine:
    """Give an engine; skip by name where there is none, fail where it is required."""
    mode = os.environ.get("TEST_DOCKER", "")
    if not mode:
        pytest.skip("runs containers: `make test-docker` runs it")
    try:
        return open_engine()
    except Missing as error:
        if mode == "required":
            pytest.fail(f"required here: {error}")
        pytest.skip(str(error))
