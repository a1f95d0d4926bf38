"""A supervisor of child processes: starts them in order, starts again what dies, stops them in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.machine.children import die_with_parent

_BACK_OFF_FIRST_SECONDS: Final = 0.2
_BACK_OFF_MAX_SECONDS: Final = 5.0
#: A child that lived this long was well: its next death is not held against it.
_WELL_AFTER_SECONDS: Final = 10
_FIRST_STARTS_MAX: Final = 3
_READY_POLL_SECONDS: Final = 0.05
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


class Supervisor:
    """The keeper of some children. Must be started in the main thread: children die with the thread that made them."""

    def __init__(
        self,
        children: Sequence[Child],
        say: Callable[[str], None],
        *,
        ready_timeout_seconds: float = 30,
        grace_seconds: float = 10,
    ) -> None:
        self._kept = [_Kept(child, say, ready_timeout_seconds, grace_seconds) for child in children]

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now, by name of the child."""
        return {kept.child.name: kept.pid for kept in self._kept if kept.pid is not None}

    async def start(self) -> None:
        """Start every group when the one before it is ready, and keep them running from then on.

        Raises CodebankError with the end of its log if a child does not become ready; all are stopped then.
        """
        try:
            for group in self._groups():
                await _all_or_first_error([kept.start() for kept in group])
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop every group, the last first, and wait for its end. Safe to repeat."""
        for kept in self._kept:
            await kept.let_go()
        for group in reversed(self._groups()):
            await asyncio.gather(*(kept.end() for kept in group))

    def _groups(self) -> list[list[_Kept]]:
        grouped = itertools.groupby(self._kept, key=lambda kept: kept.child.group or f"alone: {kept.child.name}")
        return [list(members) for _, members in grouped]


class _Kept:
    """One child, and what the supervisor knows of it."""

    def __init__(self, child: Child, say: Callable[[str], None], ready_timeout_seconds: float, grace_seconds: float):
        self.child = child
        self._say = say
        self._ready_timeout_seconds = ready_timeout_seconds
        self._grace_seconds = grace_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._spawned_at_seconds = 0.0
        self._log_start_bytes = 0

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        for pause_seconds in _pauses(_FIRST_STARTS_MAX):
            process = await self._spawn()
            if await self._becomes_ready(process):
                self._keeper = asyncio.create_task(self._keep(process), name=f"keep {self.child.name}")
                return
            if process.returncode is None:
                raise self._failure(f"{self.child.name} is not ready after {self._ready_timeout_seconds:g} s")
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
            async with asyncio.timeout(self._ready_timeout_seconds):
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
            await process.wait()
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

    async def _say_when_ready(self, process: asyncio.subprocess.Process) -> None:
        if await self._becomes_ready(process):
            seconds = asyncio.get_running_loop().time() - self._spawned_at_seconds
            self._say(f"{self.child.name} is ready again after {seconds:.1f} s")
        elif process.returncode is None:
            # Left alone: it may be waiting for something that is not its fault.
            self._say(f"{self.child.name} is not ready after {self._ready_timeout_seconds:g} s: {self.child.log_path}")

    async def let_go(self) -> None:
        """Keep it running no longer."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            # Gathered, so that a cancellation of ours is not taken for the keeper's.
            await asyncio.gather(keeper, return_exceptions=True)

    async def end(self) -> None:
        """Ask it to finish, and make sure."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self._grace_seconds):
                await process.wait()
        except TimeoutError:
            self._say(f"{self.child.name} did not stop within {self._grace_seconds:g} s; killed")
            with contextlib.suppress(ProcessLookupError):
                # It leads a group of its own: whatever it has started goes with it.
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _failure(self, message: str) -> CodebankError:
        written = self.child.log_path.read_bytes()[self._log_start_bytes :]
        tail = written[-_TAIL_BYTES:].decode(errors="replace").strip()
        return CodebankError(
            Code.INTERNAL, f"{message}\n{tail}" if tail else message, hint=f"its whole log is {self.child.log_path}"
        )


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


async def _all_or_first_error(works: Sequence[Awaitable[None]]) -> None:
    """Wait for all; on the first error give up the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
