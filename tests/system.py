"""The whole system in one process, for tests that belong to no room: every role's real code on real databases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.types import ASGIApp

from codebank.audit.proof.prove import prove_once
from codebank.audit.proof.reconcile import Proof
from codebank.eventlog.local.log import LocalLog
from codebank.eventlog.relay import Relay
from codebank.machine.postgres import EmbeddedPostgres
from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD, seed_all
from codebank.roles import METRICS, ROLES, migrate_all
from codebank.runtime.postgres.pool import open_pool
from codebank.runtime.postgres.provision import prepare_databases
from codebank.runtime.watch.health import is_ready
from codebank.runtime.watch.telemetry import Telemetry
from codebank.runtime.watch.tracer import open_tracer
from codebank.runtime.web.serve import serve_app
from codebank.settings import DATABASES, READER_ROLE, Settings
from tests.conftest import TEST_MERCHANT_KEY, TEST_OPERATOR_KEY, TEST_VAULT_KEY, Databases, settings_for

#: Each of up to four workers has its own, so that two never choose the same at once.
_FIRST_PORT: Final = 12_000 + 4000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4)
_PORTS: Final = range(_FIRST_PORT, _FIRST_PORT + 3800)
#: Not the module's own: hypothesis starts that one anew.
_CHANCE: Final = random.SystemRandom()
_given: Final = deque[int](maxlen=400)


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int, also: int = 0) -> int:
    """Find the first of so many free ports in a row; `also` more is free too. A worker gives none twice in short order.

    They lie below those that the kernel gives to outgoing connections: whoever is stopped finds its own free again.
    """
    while True:
        first = _CHANCE.choice(_PORTS)
        wanted = {*range(first, first + count), first + also}
        if wanted.isdisjoint(_given) and all(map(_is_free, wanted)):
            _given.extend(wanted)
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


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


#: As the installed command does it: the folder where one stands is none of its business.
CODEBANK = [sys.executable, "-P", "-m", "codebank"]
PORTS = ("bank_port", "checkout_port", "statement_port", "audit_port", *(role.health_port for role in ROLES.values()))


@contextlib.asynccontextmanager
async def served(app: ASGIApp, on_stop: Callable[[], None] = lambda: None) -> AsyncIterator[int]:
    """Serve an application on a port of its own until the end of the block, and give the port."""
    port, ready, stop = free_port(), asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(
        serve_app(
            app,
            "127.0.0.1",
            port,
            stop,
            grace_seconds=1,
            keep_alive_seconds=5,
            on_ready=ready.set,
            on_stop=on_stop,
        )
    )
    await ready.wait()
    try:
        yield port
    finally:
        stop.set()
        await serving


def own_environment(state: Path, **settings: object) -> dict[str, str]:
    """Make an environment for `codebank`: a state folder and ports of its own, and no setting from outside."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CODEBANK_")}
    own = {**{name: free_port() for name in PORTS}, "state": state, "bank_processes": 1, **settings}
    return inherited | {f"CODEBANK_{name.upper()}": str(value) for name, value in own.items()}


@contextlib.asynccontextmanager
async def own_server(state: Path, **settings: object) -> AsyncIterator[dict[str, str]]:
    """Run a PostgreSQL of a test's own, migrated and seeded, for roles as processes; give their environment."""
    keys = {"vault_key": TEST_VAULT_KEY, "operator_key": TEST_OPERATOR_KEY, "merchant_key": TEST_MERCHANT_KEY}
    environment = own_environment(state, **keys, web_secret="of the tests", test_cards="on", demo="on", **settings)
    with EmbeddedPostgres(state / "postgres", durable=False) as server:
        await prepare_databases(server.dsn("postgres", "postgres"), list(DATABASES), READER_ROLE)
        await migrate_all(Settings.load(environment))
        await seed_all(Settings.load(environment))
        yield environment


@dataclass
class RoleProcess:
    """A role as a process of its own."""

    name: str
    settings: Settings
    process: subprocess.Popen[bytes]
    log_path: Path
    environment: Mapping[str, str]

    def signal(self, number: signal.Signals) -> None:
        """Stop it, let it go on, or end it."""
        self.process.send_signal(number)

    async def metric(self, name: str) -> float:
        """Read a metric without labels; -1 where it does not answer."""
        home = f"http://127.0.0.1:{getattr(self.settings, ROLES[self.name].health_port)}"
        try:
            async with httpx.AsyncClient(base_url=home, timeout=1) as browser:
                shown = (await browser.get("/metrics")).text
        except httpx.HTTPError:
            return -1
        (line,) = [line for line in shown.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])


def strange_folder(parent: Path) -> Path:
    """Make a folder to start programs in, whose files have names of modules that they need."""
    folder = parent / "strange"
    folder.mkdir(exist_ok=True)
    for name in ("json", "asyncpg", "codebank"):
        (folder / f"{name}.py").write_text(f'raise SystemExit("{name}.py of the folder was taken for the module")')
    return folder


def _start(words: list[str], environment: Mapping[str, str], log_path: Path) -> subprocess.Popen[bytes]:
    with log_path.open("wb") as log:
        return subprocess.Popen([*CODEBANK, *words], env=environment, stderr=log, cwd=strange_folder(log_path.parent))


@contextlib.asynccontextmanager
async def role_process(name: str, environment: Mapping[str, str], **ports: int) -> AsyncIterator[RoleProcess]:
    """Run a role as a process until the end of the block; wait until it can be used."""
    own = {f"CODEBANK_{key.upper()}": str(port) for key, port in ports.items()}
    own.setdefault(f"CODEBANK_{name.upper()}_HEALTH_PORT", str(free_port()))
    settings = Settings.load({**environment, **own})
    log_path = settings.state / f"{name}-{getattr(settings, ROLES[name].health_port)}.log"
    process = _start(["run", name], {**environment, **own}, log_path)
    try:
        async with asyncio.timeout(30):
            while not await is_ready("127.0.0.1", getattr(settings, ROLES[name].health_port)):
                assert process.poll() is None, log_path.read_text()
                await asyncio.sleep(0.05)
        yield RoleProcess(name, settings, process, log_path, {**environment, **own})
    finally:
        process.kill()
        process.wait()


def children(state: Path, role: str) -> list[int]:
    """Find the processes of a role that an `up` with this state folder runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            mine = str(state).encode() in (path / "environ").read_bytes()
        except OSError:
            continue
        if words[4:6] == [b"run", role.encode()] and mine:
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
