"""Work that nobody waits for any more: it is finished, and its errors are told."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from codebank.checkout.tasks import Tasks

pytestmark = pytest.mark.anyio


async def test_trap_c02_an_error_of_work_that_nobody_waits_for_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tasks, may_fail = Tasks(), asyncio.Event()

    async def work() -> None:
        await may_fail.wait()
        raise ValueError("a fault of ours")

    waiting = asyncio.create_task(tasks.finish(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    may_fail.set()
    await tasks.drain(5)

    assert [(record.levelname, str(record.exc_info and record.exc_info[1])) for record in caplog.records] == [
        ("ERROR", "a fault of ours")
    ]


async def test_whoever_waits_is_told_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        await Tasks().finish(work())

    assert caplog.records == []


async def test_what_is_not_done_in_time_is_given_up_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()
    with caplog.at_level(logging.WARNING):
        waiting = asyncio.create_task(tasks.finish(asyncio.Event().wait()))
        await asyncio.sleep(0)

        await tasks.drain(0)

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [record.message for record in caplog.records] == ["gave up what was not done in time"]
