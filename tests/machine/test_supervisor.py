"""Children start in order, come back when they die, and stop in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from codebank.errors import CodebankError
from codebank.machine.supervisor import Child, Supervisor

pytestmark = pytest.mark.anyio

#: Writes down when it starts and stops; is ready when its file is there.
STEADY = """
trap 'echo stop $1 >> "$2/story"; exit 0' TERM
echo start $1 >> "$2/story"
echo $$ > "$2/$1.ready"
while :; do sleep 0.05; done
"""
#: Does not hear the polite word, and has a child of its own.
STUBBORN = """
trap '' TERM
sleep 60 &
echo $! > "$2/$1.new"
mv "$2/$1.new" "$2/$1.ready"
while :; do sleep 1; done
"""
#: Says that it lives whenever it is asked, and has a neighbour.
ANSWERING = """
sleep 60 &
echo $! > "$2/$1.beside"
while :; do : > "$2/$1.beat"; : > "$2/$1.ready"; sleep 0.02; done
"""
#: Is well until it is killed, then never again.
SPOILED = """
[ -e "$2/$1.ready" ] && { echo start $1 >> "$2/story"; exit 7; }
echo $$ > "$2/$1.ready"
exec sleep 60
"""


def child(folder: Path, name: str, script: str = STEADY, group: str = "") -> Child:
    async def ready() -> bool:
        return (folder / f"{name}.ready").exists()

    return Child(
        name, ["/bin/sh", "-c", script, "sh", name, str(folder)], {"PATH": os.defpath}, ready, folder / "log" / name,
        group,
    )  # fmt: skip


def story(folder: Path) -> list[str]:
    path = folder / "story"
    return path.read_text().splitlines() if path.exists() else []


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool], seconds: float = 8) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def supervised(
    *children: Child, grace_seconds: float = 5, said: list[str] | None = None
) -> AsyncIterator[Supervisor]:
    heard = said if said is not None else []
    supervisor = Supervisor(children, heard.append, grace_seconds=grace_seconds, live_poll_seconds=0.05)
    async with supervisor.running():
        yield supervisor


async def start(supervisor: Supervisor) -> None:
    async with supervisor.running():
        pass


async def test_children_start_in_order_and_stop_in_reverse_order(folder: Path) -> None:
    children = [child(folder, name) for name in ("bank", "checkout", "audit")]

    async with supervised(*children) as supervisor:
        assert story(folder) == ["start bank", "start checkout", "start audit"]
        pids = supervisor.pids
        assert list(pids) == ["bank", "checkout", "audit"]
        assert all(os.getsid(pid) == pid for pid in pids.values())

    assert story(folder)[3:] == ["stop audit", "stop checkout", "stop bank"]
    assert not any(runs(pid) for pid in pids.values())
    assert supervisor.pids == {}


async def test_children_of_a_group_start_together_after_those_before_them(folder: Path) -> None:
    def waits_for(name: str, other: str) -> Child:
        return replace(child(folder, name, group="roles"), ready=child(folder, other).ready)

    async with supervised(child(folder, "bank"), waits_for("relay", "audit"), waits_for("audit", "relay")):
        assert story(folder)[0] == "start bank"
        assert set(story(folder)[1:]) == {"start relay", "start audit"}

    assert story(folder)[-1] == "stop bank"


async def test_a_killed_child_comes_back_and_its_neighbours_do_not_notice(folder: Path) -> None:
    said: list[str] = []
    async with supervised(child(folder, "bank"), child(folder, "relay"), said=said) as supervisor:
        before = supervisor.pids

        os.kill(before["bank"], signal.SIGKILL)

        await until(lambda: len(said) == 2)
        assert supervisor.pids["relay"] == before["relay"]
        assert supervisor.pids["bank"] != before["bank"]
        assert said[0] == "bank was ended by SIGKILL; starting it again in 0.2 s"
        assert said[1].startswith("bank is ready again after 0.")


async def test_trap_c05_a_child_that_hangs_is_killed_with_all_that_it_started_and_replaced(folder: Path) -> None:
    said: list[str] = []
    async with supervised(answering(folder, "relay"), child(folder, "bank"), said=said) as supervisor:
        before = supervisor.pids
        neighbour = int((folder / "relay.beside").read_text())

        os.kill(before["relay"], signal.SIGSTOP)

        await until(lambda: len(said) == 3)
        assert said[:2] == ["relay does not answer; killed", "relay was ended by SIGKILL; starting it again in 0.2 s"]
        assert supervisor.pids["bank"] == before["bank"]
        assert not runs(before["relay"])
        await until(lambda: not runs(neighbour))
        assert runs(supervisor.pids["relay"])


async def test_a_child_that_was_silent_for_a_moment_is_left_alone(folder: Path) -> None:
    said: list[str] = []
    asked = 0
    calm = answering(folder, "relay")

    async def live() -> bool:
        nonlocal asked
        asked += 1
        return asked % 10 == 0

    async with supervised(replace(calm, live=live), said=said) as supervisor:
        before = supervisor.pids
        await until(lambda: asked >= 25)

        assert supervisor.pids == before
        assert said == []


def answering(folder: Path, name: str) -> Child:
    """Make a child that says again and again that it lives, and has another beside it."""
    calm = child(folder, name, ANSWERING)
    beat = folder / f"{name}.beat"

    async def live() -> bool:
        beat.unlink()
        async with asyncio.timeout(0.2):
            while not beat.exists():
                await asyncio.sleep(0.01)
        return True

    async def lives() -> bool:
        try:
            return await live()
        except (OSError, TimeoutError):
            return False

    return replace(calm, live=lives)


async def test_a_child_that_dies_again_and_again_is_started_less_and_less_often(folder: Path) -> None:
    said: list[str] = []
    spoiled = child(folder, "bank", SPOILED)
    gone = replace(spoiled, ready=child(folder, "nobody").ready)
    first = True

    async def ready_once() -> bool:
        nonlocal first
        answer = await (spoiled if first else gone).ready()
        first = first and not answer
        return answer

    async with supervised(replace(spoiled, ready=ready_once), said=said) as supervisor:
        os.kill(supervisor.pids["bank"], signal.SIGTERM)
        await until(lambda: len(said) == 3)
        before_stop = time.monotonic()

    # Stopped in the middle of a pause, at once and for good.
    assert time.monotonic() - before_stop < 0.5
    assert said == [
        "bank was ended by SIGTERM; starting it again in 0.2 s",
        "bank ended with status 7; starting it again in 0.4 s",
        "bank ended with status 7; starting it again in 0.8 s",
    ]
    assert story(folder) == ["start bank", "start bank"]


async def test_a_child_that_does_not_listen_is_killed_with_all_that_it_started(folder: Path) -> None:
    said: list[str] = []
    async with supervised(child(folder, "bank", STUBBORN), grace_seconds=0.3, said=said) as supervisor:
        pid = supervisor.pids["bank"]
        grandchild = int((folder / "bank.ready").read_text())
        assert runs(grandchild)

    assert said == ["bank did not stop within 0.3 s; killed"]
    assert not runs(pid)
    await until(lambda: not runs(grandchild))


async def test_a_child_that_dies_three_times_before_it_is_ready_is_an_error_with_the_end_of_its_log(
    folder: Path,
) -> None:
    broken = child(folder, "relay", 'echo start $1 >> "$2/story"; echo cannot find the database >&2; exit 3')
    broken.log_path.parent.mkdir()
    broken.log_path.write_text("of an earlier day\n")
    supervisor = Supervisor([child(folder, "bank"), broken, child(folder, "audit")], print)

    with pytest.raises(CodebankError) as raised:
        await start(supervisor)

    assert raised.value.message == ("relay ended with status 3 before it was ready, 3 times\ncannot find the database")
    assert raised.value.hint == f"its whole log is {broken.log_path}"
    assert broken.log_path.read_text() == "of an earlier day\n" + "cannot find the database\n" * 3
    assert story(folder) == ["start bank", "start relay", "start relay", "start relay", "stop bank"]
    assert supervisor.pids == {}


async def test_a_child_that_lives_but_is_never_ready_is_an_error(folder: Path) -> None:
    sleepy = child(folder, "bank", "echo waiting; exec sleep 60")
    supervisor = Supervisor([sleepy], print, ready_timeout_seconds=0.4)

    with pytest.raises(CodebankError, match=r"bank is not ready after 0\.4 s\nwaiting\nhint: its whole log is"):
        await start(supervisor)

    assert supervisor.pids == {}


async def test_one_of_a_group_that_fails_gives_up_the_others(folder: Path) -> None:
    waiting = child(folder, "relay", "echo $$ > $2/pid; exec sleep 60", group="roles")
    broken = child(folder, "bank", "exit 3", group="roles")
    supervisor = Supervisor([waiting, broken], print)

    with pytest.raises(CodebankError, match="bank ended with status 3 before it was ready, 3 times"):
        await start(supervisor)

    assert not runs(int((folder / "pid").read_text()))


async def test_a_program_that_is_not_there_is_named(folder: Path) -> None:
    missing = replace(child(folder, "bank"), argv=["/nowhere/python"])

    with pytest.raises(CodebankError, match="bank cannot be started: /nowhere/python: No such file or directory"):
        await start(Supervisor([missing], print))


async def test_a_refused_connection_while_asking_means_not_yet(folder: Path) -> None:
    calm = child(folder, "bank")

    async def ready() -> bool:
        if not await calm.ready():
            raise ConnectionRefusedError
        return True

    async with supervised(replace(calm, ready=ready)) as supervisor:
        assert list(supervisor.pids) == ["bank"]


async def test_a_start_that_is_given_up_leaves_nothing_behind(folder: Path) -> None:
    supervisor = Supervisor([child(folder, "bank"), child(folder, "relay", "exec sleep 60")], print)
    starting = asyncio.create_task(start(supervisor))
    await until(lambda: "relay" in supervisor.pids)
    pids = supervisor.pids

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting

    assert not any(runs(pid) for pid in pids.values())
    assert story(folder) == ["start bank", "stop bank"]


async def test_a_child_sees_only_the_environment_that_it_was_given(folder: Path) -> None:
    script = 'env > "$2/environment"; ' + STEADY
    given = replace(child(folder, "bank", script), env={"PATH": os.defpath, "CODEBANK_HOST": "here"})

    async with supervised(given):
        names = {line.partition("=")[0] for line in (folder / "environment").read_text().splitlines()}

    assert names - {"PWD", "SHLVL", "OLDPWD", "_"} == {"PATH", "CODEBANK_HOST"}


async def test_children_end_when_their_supervisor_is_killed(folder: Path) -> None:
    program = f"""
import asyncio, pathlib, sys
from codebank.machine.supervisor import Child, Supervisor
folder = pathlib.Path(sys.argv[1])
async def ready():
    return (folder / "bank.ready").exists()
argv = ["/bin/sh", "-c", {STEADY!r}, "sh", "bank", str(folder)]
async def main():
    child = Child("bank", argv, {{"PATH": {os.defpath!r}}}, ready, folder / "log")
    async with Supervisor([child], print).running():
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"ready\n"
    pid = int((folder / "bank.ready").read_text())
    assert runs(pid)

    owner.kill()
    await owner.wait()

    await until(lambda: not runs(pid))
    assert story(folder) == ["start bank", "stop bank"]
