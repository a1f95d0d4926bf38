"""The release before: its code as the history has it, run as processes beside this release's."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import pytest

from codebank.runtime.watch.health import is_ready
from codebank.settings import PREFIX
from tests.system import CODEBANK

ROOT: Final = Path(__file__).resolve().parents[2]
#: The last commit of the release before. Whoever releases moves it on, and makes the state and the recordings anew:
#: `python -m tests.release.make`.
COMMIT: Final = "8991befce4845d3e81acfce0284b73bbc3ae35e1"
#: Compiled once for all test processes; git ignores it.
_UNPACKED: Final = ROOT / ".cache" / f"release-{COMMIT[:12]}"
THIS: Final = ROOT / "src"


@functools.cache
def code_before() -> Path:
    """Give the folder of its packages. The test is skipped where the history does not reach so far."""
    return unpack(COMMIT, _UNPACKED) / "src"


def unpack(commit: str, target: Path) -> Path:
    """Put a commit's code into a folder, unless it is there already."""
    if not target.exists():
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode != 0:
            _miss(f"the release before ({commit[:7]}) is not in this checkout's history")
        target.parent.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent))
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(made, filter="data")
        try:
            made.rename(target)
        except OSError:  # another test process was faster
            shutil.rmtree(made)
    return target


def _miss(reason: str) -> NoReturn:
    if os.environ.get("TEST_RELEASE") == "required":
        pytest.fail(f"{reason}: fetch all of it (git fetch --unshallow)")
    pytest.skip(reason)


def run_code(code: Path, program: str, given: str = "", timeout_seconds: int = 50) -> str:
    """Run a program in Python over one release's packages and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        input=given,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def understood(code: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out the settings that a release does not have: it refuses what it does not know."""
    settings = (code / "codebank" / "settings.py").read_text(encoding="utf-8")
    there = {f"{PREFIX}{name.upper()}" for name in re.findall(r"^    (\w+): ", settings, re.MULTILINE)}
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX) or name in there}


def start(code: Path, words: Sequence[str], environment: Mapping[str, str], said: Path) -> subprocess.Popen[bytes]:
    """Start `codebank` of one release with these words; what it says goes to a file.

    Nothing is run between fork and exec: gRPC's threads, which this process may have, would not outlive it.
    """
    with said.open("wb") as output:
        return subprocess.Popen(
            [*CODEBANK, *words],
            env={**environment, "PYTHONPATH": str(code)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


@contextlib.asynccontextmanager
async def running(code: Path, role: str, environment: Mapping[str, str]) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a role of one release as a process of its own, from ready to stopped as SIGTERM stops it."""
    port = int(environment[f"CODEBANK_{role.upper()}_HEALTH_PORT"])
    said = Path(environment["CODEBANK_STATE"]) / f"{role}-{port}.log"
    process = start(code, ("run", role), environment, said)
    try:
        async with asyncio.timeout(30):
            while not await is_ready("127.0.0.1", port):
                assert process.poll() is None, said.read_text()[-2000:]
                await asyncio.sleep(0.05)
        yield process
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
