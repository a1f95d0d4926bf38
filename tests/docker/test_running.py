"""compose.yaml as README tells it: started, bought from, killed, proven, stopped, started again. In this order."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
import yaml

from codebank.machine.handing_out import SEEN
from tests.docker.engine import ROOT, say
from tests.docker.system import FILE, ROLES, System, readme_commands, size_of, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

JOBS = ("certs", "secrets", "databases", "migrate", "topics", "seed")
#: What a process says that ended on SIGTERM as it should: ours, and a Java one.
ENDED_WELL = {0, 143}


@pytest.fixture(scope="module")
def running(system: System) -> System:
    """Give the system as the README's first command starts it."""
    began = time.monotonic()
    done = system.follow(readme_commands()[0], seconds=600)
    assert done.returncode == 0, done.stderr[-4000:] + system.compose("logs", "--tail", "20", check=False)[-6000:]
    say(f"everything was ready {time.monotonic() - began:.0f} s after `{readme_commands()[0]}`")
    return system


@pytest.fixture(scope="module")
def bought(running: System) -> dict[str, Any]:
    """Give an order of which the statement shows the payment."""
    order = running.buy()
    until(lambda: order["payment_id"] in running.lines(), 30, "the line on the statement")
    return order


def test_one_command_starts_everything_in_order(running: System) -> None:
    containers = {name: running.container(name) for name in (*ROLES, "kafka-1", "postgres", *JOBS)}

    assert {name: containers[name]["State"]["ExitCode"] for name in JOBS} == dict.fromkeys(JOBS, 0)
    assert running.services() == sorted([*ROLES, "kafka-1", "postgres"])
    assert {containers[name]["State"]["Health"]["Status"] for name in running.services()} == {"healthy"}
    starts = [containers[name]["State"]["StartedAt"] for name in ("kafka-1", "bank", "checkout", "statement")]
    assert starts == sorted(starts)


def test_a_purchase_comes_to_the_statement(bought: dict[str, Any]) -> None:
    assert bought["status"] == "paid"


def test_the_control_room_finds_every_role_and_the_broker(running: System) -> None:
    flow = httpx.get(f"{running.home('audit')}/api/flow", timeout=30).raise_for_status().json()

    assert flow["roles"] == dict.fromkeys(ROLES, True)


def test_every_container_is_guarded(running: System) -> None:
    for name in running.services():
        found = running.container(name)
        host, user = found["HostConfig"], found["Config"]["User"]
        assert user.split(":")[0] not in ("", "0", "root"), name
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        published = [place for places in (host["PortBindings"] or {}).values() for place in places]
        assert {place["HostIp"] for place in published} <= {"127.0.0.1"}, name
    for role in ROLES:
        assert running.container(role)["Config"]["Healthcheck"]["Test"] == ["CMD", "codebank", "health", role]
        tried = running.python(role, "import os; print(os.getuid()); open('/opt/codebank/x', 'w')")
        assert tried.stdout.strip() == "10001", role
        assert "Read-only file system" in tried.stderr, role


def test_a_container_sees_the_secrets_that_it_reads_and_no_other(running: System) -> None:
    for role in ROLES:
        code = "import os; print(*os.listdir('/var/lib/codebank/secrets'))"
        assert set(running.python(role, code).stdout.split()) == {*SEEN[role][0], "postgres_passwords"}, role


def test_no_secret_is_told_by_the_engine_the_image_or_compose(running: System, image: str) -> None:
    code = (
        "import pathlib, json; print(json.dumps([f.read_text() for f in pathlib.Path('/s').rglob('*') if f.is_file()]))"
    )
    volume = f"{running.engine.settings['COMPOSE_PROJECT_NAME']}_secrets"
    read = ["run", "--rm", "--volume", f"{volume}:/s:ro", "--entrypoint", "/opt/codebank/bin/python", image, "-c", code]
    kept = json.loads(running.engine.docker(*read))
    parts = {part for text in kept for line in text.replace(",", "\n").splitlines() for part in line.rpartition("=")}
    secrets = {part.strip() for part in parts if len(part.strip()) >= 16}
    assert len(secrets) >= 9

    told = [running.engine.docker("inspect", running.container(name)["Id"]) for name in (*ROLES, "postgres", *JOBS)]
    told.append(running.engine.docker("history", "--no-trunc", image))
    told.append(running.compose("config"))
    told.append(running.compose("logs"))

    assert [secret[:4] for secret in secrets if any(secret in text for text in told)] == []


@pytest.mark.parametrize(
    "channel",
    [
        "grpc.insecure_channel('bank:50051')",
        "grpc.secure_channel('bank:50051', grpc.ssl_channel_credentials("
        "open('/var/lib/codebank/certs/ca.crt', 'rb').read()))",
    ],
    ids=["in clear", "without a certificate"],
)
def test_the_bank_speaks_to_nobody_who_does_not_show_a_certificate(running: System, channel: str) -> None:
    code = f"""
import grpc
try:
    {channel}.unary_unary('/grpc.health.v1.Health/Check')(b'', timeout=5)
    print('answered')
except grpc.RpcError as error:
    print(error.code().name)
"""
    assert running.python("checkout", code).stdout.strip() in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def test_postgres_and_kafka_speak_to_nobody_in_clear(running: System) -> None:
    code = """
import asyncio, asyncpg
try:
    asyncio.run(asyncpg.connect('postgresql://bank:x@postgres:5432/bank?sslmode=disable'))
except Exception as error:
    print(error)
"""
    assert "no encryption" in running.python("bank", code).stdout
    code = """
from confluent_kafka.admin import AdminClient
try:
    AdminClient({'bootstrap.servers': 'kafka-1:9092', 'log_level': 0}).list_topics(timeout=5)
    print('answered')
except Exception as error:
    print(type(error).__name__)
"""
    assert running.python("relay", code).stdout.strip() == "KafkaException"


def test_a_killed_bank_comes_back_under_load_and_all_sides_agree(running: System, bought: dict[str, Any]) -> None:
    running.raise_limits()
    with running.load(buyers=4) as orders:
        until(lambda: len(orders) >= 40, 60, "forty purchases")
        running.measure()
        for service in ("bank", "projector"):
            before = running.container(service)["State"]["StartedAt"]
            running.kill(service)
            until(lambda: running.container(service)["State"]["StartedAt"] != before, 30, f"{service} again")  # noqa: B023
            until(lambda: running.container(service)["State"]["Health"]["Status"] == "healthy", 60, service)  # noqa: B023
            running.measure()
        count = len(orders)
        until(lambda: len(orders) >= count + 40, 60, "forty more purchases")
        running.measure()

    # On a busy machine the bank is away for longer than an unknown outcome is waited for: then it is cancelled.
    assert {order["status"] for order in orders} <= {"paid", "declined", "cancelled"}
    assert sum(order["status"] == "paid" for order in orders) >= 80
    done = running.follow(readme_commands()[1], seconds=120)
    say(f"{len(orders)} purchases, two kills; proof: {done.stdout.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_container_takes_more_than_its_limit(running: System) -> None:
    running.measure()
    services = yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))["services"]
    limits = {name: size_of(services[name]["mem_limit"]) for name in running.services()}

    for name, limit in limits.items():
        say(f"  {name:<10} {running.peaks[name] >> 20:>4} MiB of {limit >> 20}")
        assert running.peaks[name] <= limit * 9 // 10, name
        assert not running.container(name)["State"]["OOMKilled"]
    say(
        f"  {'together':<10} {sum(running.peaks[name] for name in limits) >> 20:>4} MiB of {sum(limits.values()) >> 20}"
    )


def test_a_stop_is_in_order_and_what_was_bought_is_there_again(running: System, bought: dict[str, Any]) -> None:
    up, _, down = readme_commands()
    began = time.monotonic()
    running.compose("stop")
    took = time.monotonic() - began
    exits = {name: running.container(name)["State"]["ExitCode"] for name in (*ROLES, "kafka-1", "postgres")}
    say(f"everything stopped within {took:.0f} s")
    assert {name: code for name, code in exits.items() if code not in ENDED_WELL} == {}
    assert {exits[role] for role in ROLES} == {0}
    assert took < 60

    assert running.follow(down, seconds=120).returncode == 0
    assert running.services() == []
    again = running.follow(up, seconds=300)

    assert again.returncode == 0, again.stderr[-4000:]
    assert running.has_arrived(bought["payment_id"])
    order = running.buy()
    until(lambda: order["payment_id"] in running.lines(), 30, "a line after the second start")


def test_down_with_volumes_leaves_nothing(running: System) -> None:
    project = running.engine.settings["COMPOSE_PROJECT_NAME"]

    running.compose("down", "--volumes")

    left = f"label=com.docker.compose.project={project}"
    for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
        assert running.engine.docker(*kind, "--quiet", "--filter", left).strip() == ""
