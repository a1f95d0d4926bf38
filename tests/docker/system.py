"""Codebank as compose runs it, for a test: containers, what they take, purchases through the published ports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from codebank.bank.test_cards import DEMO_ACCOUNT, TEST_CARDS
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD
from codebank.wire import new_id
from tests.docker.engine import ROOT, Engine, run
from tests.system import free_port

FILE = "deploy/compose.yaml"
FULL_FILE = "deploy/compose.full.yaml"
IMAGE = "codebank:test"
CONNECT_IMAGE = "codebank-connect:test"
ROLES = ("bank", "relay", "projector", "checkout", "statement", "audit")
#: Lets the demo's cardholder buy for thousands: run where PostgreSQL is.
RAISE_LIMITS: Final = (
    "psql", "--username=postgres", "--dbname=bank",
    "--command=update account set limit_minor = 100000000000 where limit_minor > 0",
)  # fmt: skip


def readme_commands() -> list[str]:
    """Read the commands that README gives for containers, in their order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("### In containers")[1].split("\n#")[0]
    commands = [line.split("  #")[0].strip() for line in re.findall(r"^docker compose .*$", section, re.MULTILINE)]
    assert [command.split()[4] for command in commands] == ["up", "exec", "down"]
    return commands


def until(condition: Callable[[], Any], seconds: int, what: str) -> Any:
    """Wait until a condition holds, and give what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to pass within {seconds} s: {what}"
        time.sleep(0.1)
    return found


@dataclass
class System:
    """One project of compose."""

    engine: Engine
    #: The compose files, in their order.
    files: tuple[str, ...] = (FILE,)
    #: Container → most that it took, in bytes.
    peaks: dict[str, int] = field(default_factory=dict)
    #: The demo's cardholder, signed in.
    session: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ports = {f"CODEBANK_{role.upper()}_PORT": str(free_port()) for role in ("checkout", "statement", "audit")}
        self.engine.settings |= {
            "COMPOSE_PROJECT_NAME": f"codebank-test-{os.getpid()}",
            "IMAGE_CODEBANK": IMAGE,
            "IMAGE_CONNECT": CONNECT_IMAGE,
            **ports,
        }

    def follow(self, command: str, seconds: int) -> subprocess.CompletedProcess[str]:
        """Run a command of the README word for word."""
        environment = self.engine.environment | self.engine.settings
        return subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
        )

    def compose(self, *arguments: str, check: bool = True, seconds: int = 300) -> str:
        """Run compose on this project."""
        named = [part for file in self.files for part in ("-f", file)]
        return self.engine.docker("compose", *named, *arguments, check=check, seconds=seconds)

    def container(self, service: str) -> dict[str, Any]:
        """Tell what the engine knows of a service's container."""
        return self.engine.inspect(self.compose("ps", "--all", "--quiet", service).strip())

    def services(self) -> list[str]:
        """List the services that run."""
        return sorted(self.compose("ps", "--services", "--status", "running").split())

    def python(self, service: str, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python inside a service's container: there is no shell."""
        environment = self.engine.environment | self.engine.settings
        command = ["docker", "exec", self.container(service)["Id"], "/opt/codebank/bin/python", "-c", code]
        return run(*command, env=environment, check=False, seconds=60)

    def kill(self, service: str) -> None:
        """Kill a service's process as the kernel would, so that the engine takes it for a crash."""
        os.kill(self.container(service)["State"]["Pid"], signal.SIGKILL)

    def home(self, role: str) -> str:
        """Give the published address of a role."""
        return f"http://127.0.0.1:{self.engine.settings[f'CODEBANK_{role.upper()}_PORT']}"

    def buy(self, quantity: int = 1) -> dict[str, Any]:
        """Buy one thing through the shop's REST, and give the order as it ended."""
        body = {"items": [{"product": "cafe-especial", "quantity": quantity}], "card": TEST_CARDS[0].body}
        with httpx.Client(base_url=self.home("checkout"), timeout=30) as shop:
            placed = shop.post("/api/orders", json=body, headers={"idempotency-key": str(new_id())})
            placed.raise_for_status()

            def ended() -> dict[str, Any] | None:
                order: dict[str, Any] = shop.get(f"/api/orders/{placed.json()['id']}").raise_for_status().json()
                return None if order["status"] in ("pending", "processing") else order

            found: dict[str, Any] = until(ended, 60, "the order ends")
            return found

    def raise_limits(self) -> None:
        """Let the demo's cardholder buy for as long as a load takes: a quick machine would use the card's limit up."""
        self.compose("exec", "-T", "postgres", *RAISE_LIMITS)

    def lines(self) -> set[str]:
        """Give the ids of the newest payments that the demo's cardholder sees on the statement."""
        with httpx.Client(base_url=self.home("statement"), timeout=30, cookies=self.session) as browser:
            # Signed in once: who tries again and again is taken for somebody who guesses.
            if not self.session:
                browser.post("/api/sessions", json={"email": DEMO_EMAIL, "password": DEMO_PASSWORD}).raise_for_status()
                self.session.update(browser.cookies)
            listed = browser.get(f"/api/accounts/{DEMO_ACCOUNT}/lines").raise_for_status().json()
            return {line["payment_id"] for line in listed["lines"]}

    def has_arrived(self, payment_id: str) -> bool:
        """Say whether the statement holds a payment, however old."""
        answer = httpx.get(f"{self.home('statement')}/api/arrivals/{payment_id}", timeout=30).raise_for_status()
        return bool(answer.json()["arrived"])

    @contextmanager
    def load(self, buyers: int) -> Iterator[list[dict[str, Any]]]:
        """Let so many buyers buy again and again meanwhile; what they got is whole when this ends."""
        orders: list[dict[str, Any]] = []
        ending = threading.Event()

        def buy_on() -> None:
            while not ending.is_set():
                orders.append(self.buy())

        with ThreadPoolExecutor(buyers) as pool:
            buying = [pool.submit(buy_on) for _ in range(buyers)]
            try:
                yield orders
            finally:
                ending.set()
            for one in buying:
                one.result()

    def measure(self) -> None:
        """Note what each container takes now, and keep the most."""
        listed = self.engine.docker("stats", "--no-stream", "--format", "{{json .}}")
        for line in listed.splitlines():
            one = json.loads(line)
            service = re.sub(rf"^{self.engine.settings['COMPOSE_PROJECT_NAME']}-(.*)-\d+$", r"\1", one["Name"])
            self.peaks[service] = max(self.peaks.get(service, 0), size_of(one["MemUsage"].split("/")[0]))


def size_of(text: str) -> int:
    """Read a size as Docker and compose write it, such as `41.5MiB` or `256m`."""
    found = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text.strip())
    assert found, text
    number, unit = found.groups()
    power = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3}[unit.lower().removesuffix("ib").removesuffix("b")]
    return int(float(number) * 1024.0**power)
