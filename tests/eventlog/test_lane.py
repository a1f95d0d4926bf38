"""The threads of Kafka's clients: a call that never returns is told, and keeps no process alive."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from codebank.eventlog.kafka import reader as reading
from codebank.eventlog.kafka.lane import Lane, Lanes, LaneStuck
from codebank.eventlog.kafka.reader import KafkaReader, Silence
from codebank.eventlog.log import LOG_ERRORS
from codebank.roles import METRICS
from codebank.runtime.watch.health import is_ready
from codebank.runtime.watch.telemetry import Telemetry
from tests.kafka.machine import until
from tests.system import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """Give what blocks whoever waits for it, until the test is over."""
    made = threading.Event()
    yield made
    made.set()


async def test_calls_come_one_after_another_on_one_thread_and_give_what_they_give() -> None:
    lane = Lane("test")

    threads = await asyncio.gather(*(lane.run(threading.get_ident) for _ in range(5)))

    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()
    with pytest.raises(TimeoutError, match="of the call itself"):
        await lane.run(_raise, TimeoutError("of the call itself"))
    assert await lane.run(sum, [1, 2], start=3) == 6
    lane.close()


def _raise(error: BaseException) -> None:
    raise error


async def test_who_gives_a_call_up_takes_it_out_of_the_queue(never: threading.Event) -> None:
    carried_out: list[int] = []
    lane = Lane("test")
    first = asyncio.create_task(lane.run(never.wait))
    second = asyncio.create_task(lane.run(carried_out.append, 2))
    await asyncio.sleep(0)

    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    never.set()

    assert await first
    assert await lane.run(carried_out.copy) == []


async def test_trap_c05_a_call_that_never_returns_is_told_to_all_who_wait_and_the_process_does_not_live(
    never: threading.Event,
) -> None:
    telemetry, lanes = Telemetry(METRICS), Lanes()
    telemetry.live_while(lanes.move)
    lane, other = lanes.open("reader", 0.2), lanes.open("looker", 0.2)
    assert telemetry.is_live()

    told = await asyncio.gather(lane.run(never.wait), lane.run(int), return_exceptions=True)

    assert [type(one) for one in told] == [LaneStuck, LaneStuck]
    assert "thread reader has not come back" in str(told[0])
    # No loop waits it out.
    assert not issubclass(LaneStuck, LOG_ERRORS)
    assert not telemetry.is_live()
    # Who comes later, such as to close it, is told at once; others go on.
    began = time.monotonic()
    with pytest.raises(LaneStuck):
        await lane.run(int)
    assert time.monotonic() - began < 1
    lane.close()
    assert await other.run(int) == 0
    lanes.open("reader")
    assert not telemetry.is_live()


class Hanging:
    """A consumer whose closing never ends, as librdkafka's may not."""

    never = threading.Event()

    def __init__(self, config: Mapping[str, Any]) -> None:
        assert config["group.id"] == "g"

    def subscribe(self, topics: list[str], **callbacks: object) -> None:
        pass

    def poll(self, seconds: float) -> None:
        raise OSError("the positions cannot be read")

    def close(self) -> None:
        self.never.wait()


async def _nowhere(_partitions: object) -> Mapping[int, int]:
    return {}


async def test_trap_c05_a_reader_that_cannot_be_closed_says_so_within_its_bound(
    monkeypatch: pytest.MonkeyPatch, never: threading.Event
) -> None:
    monkeypatch.setattr(Hanging, "never", never)
    monkeypatch.setattr(reading, "Consumer", Hanging)
    lanes = Lanes()
    reader = KafkaReader({}, "t", "g", "m", _nowhere, Silence(), lanes.open("reader", 0.2))

    async with asyncio.timeout(5):
        with pytest.raises(LaneStuck):
            await reader.read(10, 0.1)
        with pytest.raises(LaneStuck):
            await reader.close()

    assert not lanes.move()


ROLE = """
import sys, threading
from codebank.eventlog.kafka.lane import Lanes
from codebank.runtime.process import run_role
from codebank.runtime.watch.metrics import PROCESS_METRICS
from codebank.runtime.watch.telemetry import Telemetry

async def work(telemetry, stop):
    lanes = Lanes()
    telemetry.live_while(lanes.move)
    telemetry.ready.set()
    lane = lanes.open("reader", 1)
    {block}

health_port = int(sys.argv[1])
run_role("projector", work, Telemetry(PROCESS_METRICS), host="127.0.0.1", health_port=health_port, log_level="info")
"""


@pytest.mark.parametrize("block", [
    "await lane.run(threading.Event().wait)",
    "await stop.wait(); await lane.run(threading.Event().wait)",
])  # fmt: skip
def test_trap_c05_a_role_whose_client_hangs_ends(block: str, tmp_path: Path) -> None:
    address, program, said = free_port(), ROLE.replace("{block}", block), tmp_path / "said"
    with said.open("wb") as log:
        role = subprocess.Popen([sys.executable, "-c", program, str(address)], stderr=log)
    try:
        if "stop" in block:
            until(lambda: asyncio.run(is_ready("127.0.0.1", address)), 30, "the role is ready")
            role.send_signal(signal.SIGTERM)

        assert role.wait(30) == 1
        assert "has not come back" in said.read_text()
    finally:
        role.kill()
        role.wait()
