"""A role as a process: nothing of it ends alone, and nothing of it ends unsaid."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from codebank.errors import Code, CodebankError
from codebank.runtime.process import background, when_asked_to_stop
from tests.system import CODEBANK, free_port, own_environment

pytestmark = pytest.mark.anyio

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

ROLE = """
import asyncio, sys
from codebank.cli.words import answering
from codebank.errors import Code, CodebankError
from codebank.runtime.process import background, run_role
from codebank.runtime.watch.metrics import PROCESS_METRICS
from codebank.runtime.watch.telemetry import Telemetry

async def stumble():
    await asyncio.sleep(0)
    raise {error}

async def work(telemetry, stop):
    telemetry.ready.set()
    telemetry.beat()
    async with background(stumble()):
        await stop.wait()

@answering
def main():
    telemetry = Telemetry(PROCESS_METRICS)
    run_role("relay", work, telemetry, host="127.0.0.1", health_port=int(sys.argv[1]), log_level="info")

main()
"""


def run_role_that_raises(error: str) -> subprocess.CompletedProcess[str]:
    program = ROLE.replace("{error}", error)
    return subprocess.run(
        [sys.executable, "-c", program, str(free_port())], capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("error", ["ZeroDivisionError('of ours')", "CodebankError(Code.INTERNAL, 'of ours')"])
def test_trap_c02_work_that_ends_by_an_unknown_error_ends_the_role_with_its_trace_logged(error: str) -> None:
    ended = run_role_that_raises(error)

    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert ended.returncode == 1
    assert [line["message"] for line in lines] == ["starting", "the role ends by an error that it does not know"]
    assert (lines[1]["level"], lines[1]["role"]) == ("critical", "relay")
    assert "in stumble" in lines[1]["trace"]
    assert "of ours" in lines[1]["trace"]


def test_an_error_of_the_start_is_one_sentence(folder: Path) -> None:
    environment = own_environment(folder, vault_key="no key")

    ended = subprocess.run(
        [*CODEBANK, "run", "bank"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    said = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert ended.returncode in (1, 2)
    assert said[0].startswith("codebank: ")
    assert "Traceback" not in ended.stderr
    assert "critical" not in ended.stderr


async def endless() -> None:
    await asyncio.Event().wait()


async def stumbling() -> None:
    raise KeyError("stumbled") from ValueError("the cause")


async def ending() -> None:
    await asyncio.sleep(0)


async def cancelled_from_within() -> None:
    call = asyncio.get_running_loop().create_future()
    call.cancel()
    await call


async def in_background(*works: Coroutine[Any, Any, None]) -> None:
    async with background(*works):
        await endless()


async def test_the_error_of_a_work_ends_the_block_and_keeps_its_cause() -> None:
    with pytest.raises(KeyError, match="stumbled") as raised:
        await in_background(endless(), stumbling())

    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("work", "said"),
    [(ending, "ending ended by itself"), (cancelled_from_within, "cancelled_from_within was cancelled from within")],
)
async def test_trap_c02_work_that_just_ends_ends_the_block(
    work: Callable[[], Coroutine[Any, Any, None]], said: str
) -> None:
    with pytest.raises(RuntimeError, match=said):
        await in_background(work(), endless())


async def test_two_works_that_fail_at_once_are_both_told() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await in_background(stumbling(), cancelled_from_within())

    assert {type(error) for error in raised.value.exceptions} == {KeyError, RuntimeError}


async def test_an_error_of_the_block_is_raised_as_it_is_and_the_work_is_waited_for() -> None:
    told: list[str] = []

    async def working() -> None:
        try:
            await endless()
        finally:
            await asyncio.sleep(0)
            told.append("put away")

    error = CodebankError(Code.INVALID, "of the block")

    async def block() -> None:
        async with background(working()):
            await asyncio.sleep(0)
            raise error from OSError("why")

    with pytest.raises(CodebankError) as raised:
        await block()

    assert raised.value is error
    assert isinstance(error.__cause__, OSError)
    assert told == ["put away"]


async def test_work_that_ends_in_order_when_it_is_cancelled_is_no_error() -> None:
    async def polite() -> None:
        try:
            await endless()
        except asyncio.CancelledError:
            return

    async with background(polite()):
        await asyncio.sleep(0)


async def test_whoever_cancels_the_block_gets_a_cancellation() -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(in_background(endless()))
        await asyncio.sleep(0.01)
        task.cancel()

    assert task.cancelled()


def test_an_error_of_a_start_says_itself_and_nothing_else(tmp_path: Path) -> None:
    environment = own_environment(tmp_path)

    done = subprocess.run([*CODEBANK, "run", "bank"], env=environment, capture_output=True, text=True, timeout=30)

    talk = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, talk) == (
        1,
        [
            "codebank: the vault's key must be 64 hexadecimal digits",
            "hint: set CODEBANK_VAULT_KEY to the key that this bank's cards were sealed with",
        ],
    )


async def test_work_that_never_began_is_put_away() -> None:
    work = endless()

    with pytest.raises(KeyError):
        async with background(work):
            raise KeyError

    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_process_hears_whoever_asks_it_to_stop(number: signal.Signals) -> None:
    stop, before = asyncio.Event(), {one: signal.getsignal(one) for one in STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs these tests may have been told not to hear it
    when_asked_to_stop(stop.set)
    try:
        signal.raise_signal(number)
        await asyncio.wait_for(stop.wait(), 5)
    finally:
        _give_back(before)


async def test_a_process_started_by_nohup_outlives_its_terminal() -> None:
    before = {one: signal.getsignal(one) for one in STOPPING}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    when_asked_to_stop(pytest.fail)
    try:
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        _give_back(before)


def _give_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, handler)
