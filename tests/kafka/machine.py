"""The real servers of a test session, each as a process that a test may kill and start again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from codebank.errors import CodebankError
from codebank.machine.servers.app import Servers
from codebank.machine.supervisor import Child
from codebank.settings import Settings
from tests.system import free_ports

#: Fetched once for all runs of this machine; what is in there belongs to nobody's test.
SOFTWARE = os.environ.get("TEST_SOFTWARE", str(Path(tempfile.gettempdir()) / f"codebank-test-software-{os.getuid()}"))


def until(condition: Callable[[], Any], seconds: int = 60, what: str = "") -> Any:
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to pass: {what or condition}"
        time.sleep(0.05)
    return found


@dataclass
class Process:
    """One server."""

    child: Child
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for it."""
        self.child.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.child.log_path.open("ab") as log:
            self.running = subprocess.Popen(self.child.argv, env=dict(self.child.env), stdout=log, stderr=log)

    def wait(self, seconds: int = 90) -> None:
        """Wait until it can be used."""
        deadline = time.monotonic() + seconds
        while not asyncio.run(_safely(self.child)):
            assert self.running is not None
            tail = self.child.log_path.read_text()[-2000:]
            assert self.running.poll() is None, f"{self.child.name} ended: {tail}"
            assert time.monotonic() < deadline, f"{self.child.name} is not ready: {tail}"
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without letting it finish anything."""
        assert self.running is not None
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()

    def stop(self) -> None:
        """End it in order, or at once if that takes long."""
        if self.running is not None and self.running.poll() is None:
            self.running.terminate()
            try:
                self.running.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()


async def _safely(child: Child) -> bool:
    try:
        return await child.ready()
    except OSError:
        return False


@dataclass
class Machine:
    """Three brokers, Elasticsearch and Kafka Connect."""

    servers: Servers
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def addresses(self) -> Mapping[str, str]:
        """The settings with which everything is found."""
        return self.servers.addresses()

    @property
    def settings(self) -> Settings:
        """Settings that name the servers and nothing else."""
        found: dict[str, Any] = dict(self.addresses)
        return Settings(state=self.servers.settings.state, **found)

    def ensure(self, *names: str) -> None:
        """Start what does not run, and wait for it; a test before may have killed it."""
        wanted = names or tuple(self.processes)
        for name in wanted:
            process = self.processes[name]
            if process.running is None or process.running.poll() is not None:
                process.start()
        for name in wanted:
            self.processes[name].wait()

    def stop(self) -> None:
        """Stop everything, Connect first."""
        for process in reversed(self.processes.values()):
            if process.running is not None:
                process.running.terminate()
        for process in self.processes.values():
            process.stop()


def make_machine(folder: Path) -> Machine:
    """Fetch and configure the servers; skip by name where Java is missing, fail where it is required."""
    mode = os.environ.get("TEST_KAFKA", "")
    if not mode:
        pytest.skip("starts real servers: `make test-kafka` runs it")
    brokers, connect, search = free_ports(6), free_ports(1), free_ports(1, also=100)
    settings = Settings(
        state=folder, software=SOFTWARE, kafka_port=brokers, connect_port=connect, elasticsearch_port=search
    )
    # Groups of the tests notice a silent member sooner than a broker allows by itself.
    servers = Servers(settings, print, {"group.min.session.timeout.ms": "1000"})
    try:
        children = servers.prepare()
    except CodebankError as error:
        if mode == "required":
            pytest.fail(f"required here: {error}")
        pytest.skip(str(error))
    return Machine(servers, {child.name: Process(child) for child in children})
