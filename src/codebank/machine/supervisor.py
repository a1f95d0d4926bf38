"""A supervisor of child processes: starts them in order, starts again what dies or hangs, stops in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.runtime.children import die_with_parent
from codebank.runtime.process import background

_BACK_OFF_FIRST_SECONDS: Final = 0.2
_BACK_OFF_MAX_SECONDS: Final = 5.0
#: A child that lived this long was well: its next death is not held against it.
_WELL_AFTER_SECONDS: Final = 10
_FIRST_STARTS_MAX: Final = 3
_READY_POLL_SECONDS: Final = 0.05
#: How often a child is asked whether it lives, and how many times in a row it may say nothing.
_LIVE_POLL_SECONDS: Final = 1.0
_SILENT_MAX: Final = 10
_TAIL_BYTES: Final = 2000


@dataclass(frozen=True)
class Child:
    """A process to keep running."""

    name: str
    argv: Sequence[str]
    #: The whole environment: nothing is inherited.
    env: Mapping[str, str]
    #: Asked again and again until it says yes; an OSError means no. Must not take long.
    ready: Callable[[], Awaitable[bool]]
    #: Output is added to this file.
    log_path: Path
    #: Neighbours of the same group start together, and stop together. Empty: alone.
    group: str = ""
    #: Asked now and then whether it lives; an OSError means no. None: living is not being dead. Must not take long.
    live: Callable[[], Awaitable[bool]] | None = None


class Supervisor:
    """The keeper of some children. Must be used in the main thread: children die with the thread that made them."""

    def __init__(
        self,
        children: Sequence[Child],
        say: Callable[[str], None],
        *,
        ready_timeout_seconds: float = 30,
        grace_seconds: float = 10,
        live_poll_seconds: float = _LIVE_POLL_SECONDS,
    ) -> None:
        patience = _Patience(ready_timeout_seconds, grace_seconds, live_poll_seconds)
        self._kept = [_Kept(child, say, patience) for child in children]

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now, by name of the child."""
        return {kept.child.name: kept.pid for kept in self._kept if kept.pid is not None}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start every group when the one before it is ready, keep all running, stop every group, the last first.

        Raises CodebankError with the end of its log if a child does not become ready; all are stopped then.
        """
        try:
            async with background(*(kept.keep() for kept in self._kept)):
                for group in self._groups():
                    for kept in group:
                        kept.may_start.set()
                    for kept in group:
                        await kept.has_started.wait()
                yield
        except BaseExceptionGroup as errors:
            # Several that failed at once: one is enough to say what is wrong.
            raise errors.exceptions[0] from None
        finally:
            for group in reversed(self._groups()):
                await asyncio.gather(*(kept.end() for kept in group))

    def _groups(self) -> list[list[_Kept]]:
        grouped = itertools.groupby(self._kept, key=lambda kept: kept.child.group or f"alone: {kept.child.name}")
        return [list(members) for _, members in grouped]


@dataclass(frozen=True, slots=True)
class _Patience:
    ready_timeout_seconds: float
    grace_seconds: float
    live_poll_seconds: float


class _Kept:
    """One child, and what the supervisor knows of it."""

    def __init__(self, child: Child, say: Callable[[str], None], patience: _Patience) -> None:
        self.child = child
        self.may_start = asyncio.Event()
        self.has_started = asyncio.Event()
        self._say = say
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None
        self._spawned_at_seconds = 0.0
        self._log_start_bytes = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def keep(self) -> None:
        """Start it when it may, and start it again whenever it ends, until cancelled."""
        await self.may_start.wait()
        process = await self._start()
        self.has_started.set()
        await self._keep(process)

    async def _start(self) -> asyncio.subprocess.Process:
        for pause_seconds in _pauses(_FIRST_STARTS_MAX):
            process = await self._spawn()
            if await self._becomes_ready(process):
                return process
            if process.returncode is None:
                raise self._failure(f"{self.child.name} is not ready after {self._patience.ready_timeout_seconds:g} s")
            await asyncio.sleep(pause_seconds)
        ended = _how(process.returncode or 0)
        raise self._failure(f"{self.child.name} {ended} before it was ready, {_FIRST_STARTS_MAX} times")

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._log_start_bytes, log = _open_log(self.child.log_path)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.child.argv,
                env=dict(self.child.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops in order.
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        except OSError as error:
            raise CodebankError(
                Code.INTERNAL, f"{self.child.name} cannot be started: {self.child.argv[0]}: {error.strerror}"
            ) from error
        finally:
            os.close(log)
        self._spawned_at_seconds = asyncio.get_running_loop().time()
        return self._process

    async def _becomes_ready(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until it is ready; say no if it dies first, or if that takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.ready_timeout_seconds):
                while process.returncode is None:
                    with contextlib.suppress(OSError):
                        if await self.child.ready():
                            return process.returncode is None
                    await asyncio.sleep(_READY_POLL_SECONDS)
        return False

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        pause_seconds = _BACK_OFF_FIRST_SECONDS
        while True:
            await self._end_of(process)
            if loop.time() - self._spawned_at_seconds >= _WELL_AFTER_SECONDS:
                pause_seconds = _BACK_OFF_FIRST_SECONDS
            self._say(f"{self.child.name} {_how(process.returncode or 0)}; starting it again in {pause_seconds:g} s")
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, _BACK_OFF_MAX_SECONDS)
            try:
                process = await self._spawn()
            except CodebankError as error:
                # Such as no memory or no more processes: the next attempt may find some.
                self._say(str(error))
                continue
            await self._say_when_ready(process)

    async def _end_of(self, process: asyncio.subprocess.Process) -> None:
        """Wait until it ends; end it when it was asked so many times in a row and did not say that it lives."""
        silent = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience.live_poll_seconds):
                    await process.wait()
                return
            # Counted by questions, not by time: whoever stops us, or the machine, stops the counting too.
            silent = 0 if await self._lives() else silent + 1
            if silent == _SILENT_MAX:
                self._say(f"{self.child.name} does not answer; killed")
                _kill(process)

    async def _lives(self) -> bool:
        with contextlib.suppress(OSError):
            return self.child.live is None or await self.child.live()
        return False

    async def _say_when_ready(self, process: asyncio.subprocess.Process) -> None:
        if await self._becomes_ready(process):
            seconds = asyncio.get_running_loop().time() - self._spawned_at_seconds
            self._say(f"{self.child.name} is ready again after {seconds:.1f} s")
        elif process.returncode is None:
            # Left alone: it may be waiting for something that is not its fault.
            after = f"after {self._patience.ready_timeout_seconds:g} s"
            self._say(f"{self.child.name} is not ready {after}: {self.child.log_path}")

    async def end(self) -> None:
        """Ask it to finish, and make sure."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._patience.grace_seconds):
                await process.wait()
        except TimeoutError:
            self._say(f"{self.child.name} did not stop within {self._patience.grace_seconds:g} s; killed")
            _kill(process)
            await process.wait()

    def _failure(self, message: str) -> CodebankError:
        written = self.child.log_path.read_bytes()[self._log_start_bytes :]
        tail = written[-_TAIL_BYTES:].decode(errors="replace").strip()
        return CodebankError(
            Code.INTERNAL, f"{message}\n{tail}" if tail else message, hint=f"its whole log is {self.child.log_path}"
        )


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        # It leads a group of its own: whatever it has started goes with it.
        os.killpg(process.pid, signal.SIGKILL)


def _pauses(count: int) -> list[float]:
    """Give the pauses after so many deaths in a row; none after the last."""
    growing = [min(_BACK_OFF_FIRST_SECONDS * 2**number, _BACK_OFF_MAX_SECONDS) for number in range(count - 1)]
    return [*growing, 0]


def _open_log(path: Path) -> tuple[int, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    return os.fstat(handle).st_size, handle


def _how(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
