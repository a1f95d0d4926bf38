"""One `up` at a time on one state."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codebank.machine.state_lock import StateLock, StateLocked

ADDRESSES = {"shop": "http://localhost:8000", "statement": "http://localhost:8010"}


def test_whoever_comes_second_learns_who_is_there(folder: Path) -> None:
    state = folder / "new" / "state"
    first = StateLock(state)
    first.acquire(ADDRESSES)

    with pytest.raises(StateLocked) as raised:
        StateLock(state).acquire({"shop": "http://localhost:9999"})

    assert raised.value.pid == os.getpid()
    assert raised.value.addresses == ADDRESSES
    assert str(raised.value) == (
        f"codebank already runs on {state} as process {os.getpid()}\n"
        "shop: http://localhost:8000\n"
        "statement: http://localhost:8010\n"
        f"hint: use it, stop it with `kill {os.getpid()}`, or set CODEBANK_STATE to another folder"
    )
    first.release()


def test_a_lock_given_back_is_free_again(folder: Path) -> None:
    lock = StateLock(folder)
    for _ in range(2):
        with lock.held(ADDRESSES), pytest.raises(StateLocked):
            StateLock(folder).acquire({})
    lock.release()

    StateLock(folder).acquire({})


def test_a_lock_goes_with_a_killed_process_though_what_it_wrote_stays(folder: Path) -> None:
    program = (
        "import pathlib, sys, time\n"
        "from codebank.machine.state_lock import StateLock\n"
        "lock = StateLock(pathlib.Path(sys.argv[1]))\n"
        "lock.acquire({'shop': 'here'})\n"
        "print('locked', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(StateLocked) as raised:
            StateLock(folder).acquire({})
        assert raised.value.pid == holder.pid
        holder.kill()

    lock = StateLock(folder)
    lock.acquire(ADDRESSES)
    lock.release()


def test_a_holder_that_has_not_written_yet_is_not_named(folder: Path) -> None:
    with StateLock(folder).held({}):
        (folder / "up.lock").write_text("")

        with pytest.raises(StateLocked, match="as another process\nhint: use it, stop it, or set") as raised:
            StateLock(folder).acquire({})

    assert raised.value.pid is None
    assert raised.value.addresses == {}
