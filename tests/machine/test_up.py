"""`codebank up` as people use it: starts, says where, repairs what is killed, refuses a second, stops in order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from codebank.machine.keys import KEYS
from codebank.roles import ROLES
from tests.system import CODEBANK, children, own_environment, strange_folder


@dataclass
class Machine:
    """A machine with a state folder and ports of its own."""

    state: Path
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def up(self) -> subprocess.Popen[str]:
        """Start everything in the background."""
        with (self.state.parent / "up.out").open("w") as output:
            process = subprocess.Popen(
                [*CODEBANK, "up"],
                env=self.environment,
                cwd=strange_folder(self.state.parent),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        return (self.state.parent / "up.out").read_text()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*CODEBANK, *words], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def children(self, role: str) -> list[int]:
        """Find the processes of a role."""
        return children(self.state, role)


@pytest.fixture
def machine(folder: Path) -> Iterator[Machine]:
    made = Machine(folder / "state", own_environment(folder / "state"))
    yield made
    for process in made.started:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def until(condition: Callable[[], bool], seconds: int = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.timeout(150)
def test_everything_starts_repairs_itself_refuses_a_second_and_stops_in_order(machine: Machine) -> None:
    process = machine.up()
    until(lambda: "Ctrl-C stops it." in machine.said() or process.poll() is not None)
    assert process.poll() is None, machine.said()
    assert re.search(r"shop +http://localhost:\d+", machine.said())
    assert "ana@codebank.example / codebank" in machine.said()

    paid = machine.run("pay")
    assert paid.returncode == 0, paid.stderr
    assert [line.split()[2] for line in paid.stdout.splitlines()] == ["order", "bank", "statement"]
    declined = machine.run("pay", "--card", "4000001000000190", "--json")
    assert declined.returncode == 1
    assert json.loads(declined.stdout)["order"]["decline"]["code"] == "limit_exceeded"
    cards = json.loads(machine.run("card", "list").stdout)
    assert all(card["masked"].startswith("•••• ") for card in cards)
    assert machine.run("pay", "--card", "1").returncode == 2

    second = machine.run("up")
    assert second.returncode == 1
    assert str(process.pid) in second.stderr

    for row in ROLES.values():
        (pid,) = machine.children(row.name)
        told = [line.partition("=") for line in Path(f"/proc/{pid}/environ").read_text().split("\0")]
        keys = {name.removeprefix("CODEBANK_").lower() for name, _, value in told if value} & set(KEYS)
        assert keys == set(row.secrets) & set(KEYS)

    (hung,) = machine.children("statement")
    os.kill(hung, signal.SIGSTOP)
    for role in ("bank", "relay", "projector", "checkout", "audit"):
        (victim,) = machine.children(role)
        os.kill(victim, signal.SIGKILL)
        until(lambda role=role, victim=victim: machine.children(role) not in ([], [victim]))  # type: ignore[misc]
    until(lambda: machine.children("statement") not in ([], [hung]))
    until(lambda: machine.run("pay").returncode == 0)
    proof = machine.run("proof", "--json")
    assert (proof.returncode, json.loads(proof.stdout)["agrees"]) == (0, True)

    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert [machine.children(role) for role in ("bank", "relay", "projector")] == [[], [], []]
    assert machine.run("proof").returncode == 1

    again = machine.up()
    until(lambda: "Ctrl-C stops it." in machine.said() or again.poll() is not None)
    assert "migrated" not in machine.said()
    kept = json.loads(machine.run("proof", "--json").stdout)
    assert {check["name"]: check["compared"] for check in kept["checks"]}["moved"] >= 3


def test_a_taken_port_is_named_with_the_setting_that_moves_it(machine: Machine) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        machine.environment["CODEBANK_STATEMENT_PORT"] = str(holder.getsockname()[1])

        refused = machine.run("up")

    assert refused.returncode == 1
    assert "CODEBANK_STATEMENT_PORT" in refused.stderr
    assert machine.environment["CODEBANK_STATEMENT_PORT"] in refused.stderr


def test_a_wrong_setting_is_named(machine: Machine) -> None:
    machine.environment["CODEBANK_BANK_PROT"] = "1"

    refused = machine.run("up")

    assert refused.returncode == 2
    assert "CODEBANK_BANK_PROT is not a setting" in refused.stderr


def test_fresh_removes_nothing_that_is_not_ours(machine: Machine) -> None:
    machine.state.mkdir(parents=True)
    (machine.state / "thesis.txt").write_text("mine")

    refused = machine.run("up", "--fresh")

    assert refused.returncode == 1
    assert (machine.state / "thesis.txt").read_text() == "mine"
