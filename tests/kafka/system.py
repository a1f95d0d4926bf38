"""The whole system as `codebank up --log kafka` runs it, with buyers who never rest."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from codebank.bank.test_cards import TEST_CARDS
from codebank.settings import Settings
from tests.kafka.machine import Machine, until
from tests.system import CODEBANK, children, free_port, own_environment

#: Cards whose outcome comes at once.
CARDS = [card for card in TEST_CARDS if card.outcome in ("approved", "limit_exceeded", "wrong_cvv", "card_blocked")]


@dataclass
class System:
    """One `up` and its buyers."""

    state: Path
    machine: Machine
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None

    def start(self, *words: str) -> None:
        """Start it and wait until it says that it runs."""
        with (self.state.parent / "up.out").open("w") as output:
            self.process = subprocess.Popen(
                [*CODEBANK, "up", *words], env=self.environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
        until(lambda: "Ctrl-C stops it." in self.said() or self.process_ended(), 90, "up")
        assert not self.process_ended(), self.said()

    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def said(self) -> str:
        return (self.state.parent / "up.out").read_text()

    def stop(self) -> None:
        """Stop it in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*CODEBANK, *words], env=self.environment, capture_output=True, text=True, timeout=90, check=False
        )

    def children(self, role: str) -> list[int]:
        """Find the processes of a role."""
        return children(self.state, role)

    def kill(self, role: str) -> None:
        """End a role without letting it finish anything, and wait until it is started again."""
        (victim,) = self.children(role)
        os.kill(victim, signal.SIGKILL)
        until(lambda: self.children(role) not in ([], [victim]), 30, f"{role} again")

    @property
    def settings(self) -> Settings:
        """The settings with which it runs."""
        return Settings.load(json.loads((self.state / "running.json").read_text()))

    def flow(self) -> dict[str, Any]:
        """What the control room shows."""
        document: dict[str, Any] = httpx.get(f"{self._audit()}/api/flow", timeout=20).json()
        return document

    def _audit(self) -> str:
        return f"http://127.0.0.1:{self.environment['CODEBANK_AUDIT_PORT']}"

    def proven(self, seconds: int = 90) -> dict[str, Any]:
        """Wait until nothing is on its way, and give the proof. It must agree all the time."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.run("proof", "--json")
            assert done.stdout, done.stderr
            proof: dict[str, Any] = json.loads(done.stdout)
            assert proof["agrees"], [check for check in proof["checks"] if not check["holds"]]
            assert done.returncode == 0
            if proof["lag_events"] == 0:
                return proof
            assert time.monotonic() < deadline, f"{proof['lag_events']} events are still on their way"
            time.sleep(0.2)


class Buyers:
    """Buyers in a thread of their own: as long as the block lasts, each buys one thing after another."""

    def __init__(self, system: System, count: int = 6) -> None:
        self.outcomes: Counter[str] = Counter()
        self.errors: list[str] = []
        self._url = f"http://127.0.0.1:{system.environment['CODEBANK_CHECKOUT_PORT']}"
        self._count = count
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._buy_all()))

    def __enter__(self) -> Buyers:
        self._thread.start()
        self.wait_for(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_for(self, more: int, seconds: int = 120) -> None:
        """Wait until so many more purchases have ended."""
        wanted = self.outcomes.total() + more
        until(lambda: self.outcomes.total() >= wanted or self.errors, seconds, f"{more} purchases")

    async def _buy_all(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=20) as client:
            await asyncio.gather(*(self._buy(client, f"{random.getrandbits(48):x}") for _ in range(self._count)))

    async def _buy(self, client: httpx.AsyncClient, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            card = random.choice(CARDS)
            body = {"items": [{"product": "cafe-especial", "quantity": 1}], "card": card.body}
            try:
                answer = await client.post("/api/orders", json=body, headers={"idempotency-key": f"{name}-{number}"})
                if answer.status_code >= 400:
                    self.errors.append(f"{answer.status_code}: {answer.text[:200]}")
                else:
                    self.outcomes[answer.json()["status"]] += 1
            except httpx.HTTPError as error:
                self.errors.append(repr(error))


class Onlookers:
    """People who look at the control room all the time: it must never leave one without an answer."""

    def __init__(self, system: System, count: int = 2) -> None:
        self._system = system
        self._looks = 0
        self._errors: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._look) for _ in range(count)]

    def __enter__(self) -> Onlookers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert self._errors == []
        assert self._looks > 0

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                self._system.flow()
                self._looks += 1
            except httpx.HTTPError as error:
                self._errors.append(repr(error))


def make_system(folder: Path, machine: Machine) -> System:
    """Make a system with ports of its own on the servers given."""
    return System(folder / "state", machine, own_environment(folder / "state", **machine.addresses))


def extra_projector(system: System) -> subprocess.Popen[bytes]:
    """Start one projector more, as an operator would."""
    running = json.loads((system.state / "running.json").read_text())
    environment = {**system.environment, **running, "CODEBANK_PROJECTOR_HEALTH_PORT": str(free_port())}
    with (system.state.parent / "projectors.log").open("ab") as log:
        return subprocess.Popen([*CODEBANK, "run", "projector"], env=environment, stdout=log, stderr=log)


def readers(system: System) -> dict[str, int]:
    """Tell how many partitions each projector reads, as the control room shows it."""
    flow = system.flow()
    if flow["log"] is None:
        return {}
    groups = [partition["groups"][0] for partition in flow["log"]["partitions"]]
    return dict(Counter(group["reader"] for group in groups if group["reader"]))
