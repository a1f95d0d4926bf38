"""The whole system in one process, for tests that belong to no room: every role's real code on real databases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from codebank.audit.proof.prove import prove_once
from codebank.audit.proof.reconcile import Proof
from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.relay import Relay
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD, seed_all
from codebank.roles import METRICS, ROLES
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.watch.tracer import open_tracer
from codebank.settings import Settings
from tests.conftest import Databases, settings_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def free_ports(count: int, also: int = 0) -> int:
    """Find the first of so many free ports in a row; `also` more is free too."""
    while True:
        first = free_port()
        try:
            for port in {*range(first, first + count), first + also}:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


async def _run(name: str, settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    telemetry.tracer = open_tracer(name, settings.otlp, settings.trace_ratio, "tests")
    try:
        await ROLES[name].run(settings, telemetry, stop)
    finally:
        await asyncio.to_thread(telemetry.tracer.close)


@dataclass
class System:
    """Roles that run, each as its real role would; a test may stop one and start it again."""

    settings: Settings
    running: dict[str, tuple[asyncio.Task[None], asyncio.Event]] = field(default_factory=dict)

    async def start(self, *names: str) -> None:
        """Start roles and wait until they can be used."""
        for name in names:
            telemetry, stop = Telemetry(METRICS), asyncio.Event()
            task: asyncio.Task[None] = asyncio.create_task(_run(name, self.settings, telemetry, stop))
            self.running[name] = (task, stop)
            async with asyncio.timeout(10):
                while not telemetry.ready.is_set():
                    if task.done():
                        task.result()
                    await asyncio.sleep(0.01)

    async def stop(self, name: str) -> None:
        """Stop a role as SIGTERM would."""
        task, stop = self.running.pop(name)
        stop.set()
        await task

    async def kill(self, name: str) -> None:
        """End a role without letting it finish anything."""
        task, _ = self.running.pop(name)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def prove(self) -> Proof:
        """Compare all sides as they are now."""
        return await prove_once(self.settings)

    async def proven(self) -> Proof:
        """Wait until nothing is on its way, and prove."""
        async with asyncio.timeout(15):
            while (proof := await self.prove()).lag_events:
                await asyncio.sleep(0.02)
        return proof

    def shop(self) -> httpx.AsyncClient:
        """Give a browser of the shop."""
        return httpx.AsyncClient(base_url=self.settings.checkout_home().replace("localhost", "127.0.0.1"), timeout=15)

    @contextlib.asynccontextmanager
    async def statement(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a browser of the statement, with the demo's cardholder signed in."""
        home = self.settings.statement_home().replace("localhost", "127.0.0.1")
        async with httpx.AsyncClient(base_url=home, timeout=15) as browser:
            answer = await browser.post("/sign-in", data={"email": DEMO_EMAIL, "password": DEMO_PASSWORD})
            assert answer.status_code == 303
            yield browser


CODEBANK = [sys.executable, "-m", "codebank"]
PORTS = ("bank_port", "checkout_port", "statement_port", "audit_port", *(role.health_port for role in ROLES.values()))


def own_environment(state: Path, **settings: object) -> dict[str, str]:
    """Make an environment for `codebank`: a state folder and ports of its own, and no setting from outside."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CODEBANK_")}
    own = {**{name: free_port() for name in PORTS}, "state": state, **settings}
    return inherited | {f"CODEBANK_{name.upper()}": str(value) for name, value in own.items()}


def children(state: Path, role: str) -> list[int]:
    """Find the processes of a role that an `up` with this state folder runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            mine = str(state).encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if words[3:5] == [b"run", role.encode()] and mine:
            found.append(int(path.name))
    return found


def system_settings(databases: Databases, **changes: Any) -> Settings:
    """Make settings with ports of their own."""
    return settings_for(databases, **{name: free_port() for name in PORTS}, **changes)


@contextlib.asynccontextmanager
async def running_system(databases: Databases, *names: str, **changes: Any) -> AsyncIterator[System]:
    """Run roles on seeded databases; all of them where none is named."""
    system = System(system_settings(databases, **changes))
    await seed_all(system.settings)
    await system.start(*(names or ROLES))
    try:
        yield system
    finally:
        for name in reversed(list(system.running)):
            await system.stop(name)


@contextlib.asynccontextmanager
async def relay_over(system: System, log: Callable[[Any, str], LocalLog]) -> AsyncIterator[None]:
    """Run a relay over another log than the role's own, such as one that crashes."""
    dsn = system.settings.database_url("log")
    pool = await open_pool(dsn)
    stop = asyncio.Event()
    relay = Relay(system.settings.database_url("bank"), log(pool, dsn), Telemetry(METRICS))
    task = asyncio.create_task(relay.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task
        await pool.close()
