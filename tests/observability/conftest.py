"""Fixtures of the real programs: started once for the session, with traffic of every kind behind them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.programs import find_programs
from tests.observability.traffic import make_traffic
from tests.observability.watching import Watched


@pytest.fixture(scope="session")
def programs() -> dict[str, str]:
    """Give the real programs by name."""
    return find_programs()


@pytest.fixture(scope="session")
def watched(programs: dict[str, str]) -> Iterator[Watched]:
    """Give a system that is watched and on which everything happened that one may want to see."""
    folder = Path(tempfile.mkdtemp(prefix="codebank-test-"))
    folder.chmod(0o711)
    system = Watched(folder, programs)
    try:
        system.start()
        asyncio.run(make_traffic(system))
        yield system
    finally:
        system.stop()
        shutil.rmtree(folder, ignore_errors=True)
