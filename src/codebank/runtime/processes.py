"""A role as several processes that share its port: a parent keeps them, speaks for them, and ends with the first.

Each is the whole role in an interpreter of its own. They share the port (SO_REUSEPORT: the kernel gives each connection
to one of them) and nothing else; what must be right between them is right in the database. The parent serves nothing
but their health and their metrics, as those of one. When one of them ends, the others finish what they took and the
role ends: whoever keeps the role starts all of it anew, as with a role of one process; here is no second keeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from codebank.errors import Code, CodebankError
from codebank.runtime.children import command_of, die_with_parent
from codebank.runtime.listener import address_of, why
from codebank.runtime.process import background, pause
from codebank.runtime.watch.adding import add_up
from codebank.runtime.watch.health import is_ready
from codebank.runtime.watch.metrics import PROCESS_METRICS, Metric
from codebank.runtime.watch.telemetry import Telemetry, fields

log = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
#: Shorter than whoever asks the parent waits.
_ASK_SECONDS: Final = 0.8
_POLL_SECONDS: Final = 0.05
#: What a stop may take beside its grace; less than what whoever keeps the role adds.
_EXTRA_GRACE_SECONDS: Final = 2
_CORES_PER_PROCESS: Final = 2


def process_count(wanted: int) -> int:
    """Say how many processes a role has: so many as wanted; 0 means by the cores that we may use.

    Raises CodebankError where several cannot share a port.
    """
    if sys.platform != "linux":
        if wanted > 1:
            raise CodebankError(Code.INVALID, "several processes share a port on Linux only", hint="set it to 1")
        return 1
    return wanted or max(1, len(os.sched_getaffinity(0)) // _CORES_PER_PROCESS)


@contextlib.contextmanager
def held_port(host: str, port: int, setting: str) -> Iterator[int]:
    """Keep a port for processes of ours while the block lasts, and give its number.

    Raises CodebankError where somebody else has it, sharing or not.
    """
    with contextlib.ExitStack() as holding:
        try:
            family, address = address_of(host, port)
            holder = holding.enter_context(socket.socket(family))
            # Connections of an earlier run that linger in the system do not count.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(address)
        except OSError as error:
            reason = f"port {port} cannot be opened on {host}: {why(error)}"
            raise CodebankError(Code.FAILED_PRECONDITION, reason, hint=f"set {setting} to a free port") from error
        # Whoever shares may come in from now on, and nobody else. It does not listen, so it is given no connection.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        yield int(holder.getsockname()[1])


@dataclass(frozen=True, slots=True)
class _Member:
    """One of the processes, and the port at which it tells its health."""

    process: asyncio.subprocess.Process
    health_port: int

    def answer(self, path: str) -> bytes | None:
        """Ask it something, from any thread; None where it does not answer, or says no."""
        connection = http.client.HTTPConnection(_LOOPBACK, self.health_port, timeout=_ASK_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.read() if response.status == http.client.OK else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    async def outlive(self) -> None:
        """Wait as long as it runs."""
        status = await self.process.wait()
        raise RuntimeError(f"process {self.process.pid} ended with status {status}")


class JointTelemetry(Telemetry):
    """The health and the metrics of all processes of a role, as those of one."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        super().__init__(PROCESS_METRICS)
        self.members: list[_Member] = []
        self._addings = {metric.name: metric.adding for metric in (*metrics, *PROCESS_METRICS)}
        # Of the parent only what it takes: its loop is not the one that payments wait for.
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)

    def is_live(self) -> bool:
        """Tell whether all of them live: connections go to one that hangs, too."""
        return super().is_live() and all(member.answer("/health/live") for member in self.members)

    def is_ready(self) -> bool:
        """Tell whether all of them can be used: connections go to one that cannot, too."""
        return super().is_ready() and all(member.answer("/health/ready") for member in self.members)

    def shown(self) -> bytes | None:
        """Add up the metrics of all. None where one is missing: counters would seem to go back."""
        texts = [generate_latest(self._own)]
        for member in self.members:
            text = member.answer("/metrics")
            if text is None:
                return None
            texts.append(text)
        return add_up((text.decode() for text in texts), self._addings)


@dataclass
class Parent:
    """Keeps the processes of a role."""

    role: str
    count: int
    #: Their whole environment.
    env: Mapping[str, str]
    grace_seconds: float
    telemetry: JointTelemetry

    async def run(self, _: Telemetry, stop: asyncio.Event) -> None:
        """Start them, wait until it is asked to stop or one of them ends, and let the others finish."""
        try:
            # The first alone: what is wrong at the start is said once.
            for count in (1, self.count - 1):
                for _number in range(count):
                    self.telemetry.members.append(await self._spawn())
                if not await self._become_ready(stop):
                    return
            self.telemetry.ready.set()
            log.info("serving", extra=fields(processes=self.count))
            async with background(*(member.outlive() for member in self.telemetry.members)):
                await stop.wait()
        finally:
            self.telemetry.ready.clear()
            await self._end()

    async def _spawn(self) -> _Member:
        with socket.create_server((_LOOPBACK, 0)) as door:
            process = await asyncio.create_subprocess_exec(
                *command_of("codebank", "run", self.role, "--health-fd", str(door.fileno())),
                env=dict(self.env),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[door.fileno()],
                # Killed, not asked: one that hangs would keep the port, and be given connections.
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
            return _Member(process, door.getsockname()[1])

    async def _become_ready(self, stop: asyncio.Event) -> bool:
        """Wait until all that were started can be used; say no where it is asked to stop before."""
        for member in self.telemetry.members:
            while not stop.is_set() and not await is_ready(_LOOPBACK, member.health_port):
                for one in self.telemetry.members:
                    if one.process.returncode is not None:
                        # It has said why.
                        raise SystemExit(max(1, one.process.returncode))
                await pause(stop, _POLL_SECONDS)
        return not stop.is_set()

    async def _end(self) -> None:
        """Ask them to finish, and make sure."""
        running = [member.process for member in self.telemetry.members if member.process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(self.grace_seconds + _EXTRA_GRACE_SECONDS):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            for process in running:
                if process.returncode is None:
                    log.error("a process did not stop in time; killed", extra=fields(pid=process.pid))
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
            await asyncio.gather(*(process.wait() for process in running))
