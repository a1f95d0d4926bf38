"""A whole system of a bench's own: `codebank up` on a state folder and ports of its own, as a child process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.lab.rig import some_port
from codebank.runtime.watch.health import is_ready
from codebank.settings import PREFIX, ROLE_NAMES, Settings
from codebank.wire import new_id

_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 60
_TAIL_LETTERS: Final = 2000


def own_environment(state: Path) -> dict[str, str]:
    """Make an environment for a system of its own: nothing of ours that is set outside, and ports that are free."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    names = ("bank_port", "checkout_port", "statement_port", "audit_port", *(f"{r}_health_port" for r in ROLE_NAMES))
    ports = {f"{PREFIX}{name.upper()}": str(some_port()) for name in names}
    return {**others, **ports, f"{PREFIX}STATE": str(state), f"{PREFIX}OPERATOR_KEY": new_id().hex}


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the system until the end of the block, and wait until all of it has stopped."""
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_ready(settings: Settings, system: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until every role can be used. Raises CodebankError with what the system said where it does not start."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = {getattr(settings, f"{name}_health_port") for name in ROLE_NAMES}
    while waiting:
        if system.poll() is not None or time.monotonic() > deadline:
            said = (folder / "up.log").read_text(errors="replace")[-_TAIL_LETTERS:]
            raise CodebankError(Code.UNAVAILABLE, f"the system of the bench did not start:\n{said}")
        waiting = {port for port in waiting if not await is_ready(settings.own_host(), port)}
        await asyncio.sleep(0.02)
