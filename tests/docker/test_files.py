"""What can be said of Dockerfiles and compose files without an engine: limits, guards, pins, settings."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from codebank.machine.handing_out import SEEN
from codebank.roles import ROLES
from codebank.settings import PREFIX, Settings
from tests.docker.engine import ROOT
from tests.docker.system import readme_commands, size_of

DEPLOY = ROOT / "deploy"
DOCKERFILES = [DEPLOY / "Dockerfile", DEPLOY / "connect" / "Dockerfile", *sorted((ROOT / "tests").rglob("Dockerfile"))]
JOBS = {"certs", "secrets", "databases", "migrate", "seed", "topics", "connectors", "dashboards"}
#: Their images write beside their programs; docs/operations.md says so.
WRITES_ITS_ROOT = {"elasticsearch", "kibana"}
MIB = 1024**2
#: Size → most that its containers may take together, in MiB; one-shot jobs have ended before the last role starts.
BUDGETS = {"default": 1430, "observability": 2600, "full": 6000}


class Loader(yaml.SafeLoader):
    """Reads compose files, whose two tags of their own say that something of the earlier file goes."""


class Override(dict):
    """A mapping that takes the place of the earlier file's."""


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return Override(loader.construct_mapping(node, deep=True))
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


for _tag in ("!reset", "!override"):
    Loader.add_constructor(_tag, _plain)


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((DEPLOY / name).read_text(encoding="utf-8"), Loader)
    return found


BASE = read("compose.yaml")["services"]


def _over(below: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    return mine if isinstance(mine, Override) else {**below, **mine}


def full_services() -> dict[str, dict[str, Any]]:
    """Put compose.full.yaml over compose.yaml, as far as these tests look."""
    over = read("compose.full.yaml")["services"]
    services: dict[str, dict[str, Any]] = {}
    for name in {**BASE, **over}:
        mine = over.get(name, {})
        below = BASE.get(mine.get("extends", {}).get("service", name), {})
        merged = {key: _over(below.get(key, {}), mine.get(key, {})) for key in ("environment", "depends_on")}
        services[name] = {**below, **mine, **merged}
    return services


SIZES = {
    "default": {name: one for name, one in BASE.items() if "profiles" not in one},
    "observability": BASE,
    "full": full_services(),
}
EVERY = [(size, name) for size, services in SIZES.items() for name in services]


def limit_of(service: dict[str, Any]) -> int:
    return size_of(service["mem_limit"]) // MIB


@pytest.mark.parametrize(("size", "name"), EVERY)
def test_every_service_is_limited_and_guarded(size: str, name: str) -> None:
    service = SIZES[size][name]

    assert limit_of(service) > 0
    assert int(service["user"].split(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert bool(service.get("read_only")) == (name not in WRITES_ITS_ROOT)
    assert service["logging"]["options"]["max-size"]
    if name in JOBS:
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("size", SIZES)
def test_a_size_stays_within_its_budget(size: str) -> None:
    lasting = {name: limit_of(one) for name, one in SIZES[size].items() if name not in JOBS}
    jobs = sorted(limit_of(one) for name, one in SIZES[size].items() if name in JOBS)

    assert sum(lasting.values()) <= BUDGETS[size]
    # At most three jobs run at once, in the room of roles that wait for them.
    assert sum(jobs[-3:]) <= sum(lasting[role] for role in ROLES)


def test_the_documentation_tells_each_limit_and_what_was_measured() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").split("## Docker")[1]
    told = {
        name: (int(limit), int(measured) if measured.isdigit() else None)
        for name, limit, measured in re.findall(r"^\| `([\w-]+)` \| (\d+) \| (\d+|not run) \|", text, re.MULTILINE)
    }
    lasting = {name: limit_of(one) for name, one in SIZES["full"].items() if name not in JOBS}

    assert {name: limit for name, (limit, _) in told.items()} == lasting
    assert {name for name, (limit, measured) in told.items() if measured and measured * 10 > limit * 9} == set()
    assert {name for name in SIZES["default"] if name not in JOBS and told[name][1] is None} == set()
    for size, services in SIZES.items():
        together = sum(limit_of(one) for name, one in services.items() if name not in JOBS)
        assert f"{together} MiB" in text, f"{size}: {together}"


@pytest.mark.parametrize("size", SIZES)
def test_every_variable_of_ours_is_a_setting(size: str) -> None:
    known = {PREFIX + item.name.upper() for item in fields(Settings)}
    secrets = {f"{PREFIX}{item.name.upper()}_FILE" for item in fields(Settings) if item.metadata["secret"]}
    for name, service in SIZES[size].items():
        used = {variable for variable in service.get("environment", {}) if variable.startswith(PREFIX)}
        assert used - known - secrets == set(), name
        # A secret is named by its file, never written.
        assert used & {variable.removesuffix("_FILE") for variable in secrets} == set(), name
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"\b(CODEBANK_\w+)=", text)) <= known


@pytest.mark.parametrize("size", SIZES)
def test_replicas_are_as_many_as_there_are_brokers(size: str) -> None:
    services = SIZES[size]
    brokers = sorted(name for name in services if name.startswith("kafka-"))
    voters = ",".join(f"{name.removeprefix('kafka-')}@{name}:9093" for name in brokers)
    for name in brokers:
        told = services[name]["environment"]
        assert told["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        assert str(told["KAFKA_NODE_ID"]) == name.removeprefix("kafka-")
        assert f"CLIENTS://{name}:9092" in told["KAFKA_ADVERTISED_LISTENERS"]
        for one in ("DEFAULT", "OFFSETS_TOPIC", "TRANSACTION_STATE_LOG"):
            assert told[f"KAFKA_{one}_REPLICATION_FACTOR"] == len(brokers)
    for name in ("topics", "relay", "projector", "statement", "audit"):
        told = services[name]["environment"]
        assert told["CODEBANK_KAFKA"] == ",".join(f"{broker}:9092" for broker in brokers)
        assert told["CODEBANK_KAFKA_REPLICATION"] == str(len(brokers))
        assert told["CODEBANK_KAFKA_MIN_IN_SYNC"] == ("2" if len(brokers) == 3 else "1")


def test_every_role_runs_and_is_asked_by_the_program_itself() -> None:
    for role in ROLES:
        assert BASE[role]["command"] == ["run", role]
        assert BASE[role]["healthcheck"]["test"] == ["CMD", "codebank", "health", role]
        told = BASE[role]["environment"]
        assert told["CODEBANK_TLS_CERTIFICATE_FILE"].endswith(f"/{role}/tls.crt")
        assert told["CODEBANK_TLS_KEY_FILE"].endswith(f"/{role}/tls.key")
        grace = int(BASE[role]["environment"]["CODEBANK_STOP_GRACE_SECONDS"])
        assert int(BASE[role]["stop_grace_period"].removesuffix("s")) > grace + 5


def test_the_order_of_a_start_is_kafka_bank_checkout_statement() -> None:
    def after(name: str) -> set[str]:
        direct = set(BASE[name].get("depends_on", {}))
        return direct.union(*(after(one) for one in direct))

    assert {"certs", "secrets", "postgres", "kafka-1", "migrate", "seed", "topics"} <= after("bank")
    assert "bank" in after("checkout")
    assert {"checkout", "relay", "projector"} <= after("statement")
    for name, service in SIZES["full"].items():
        for one, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if one in JOBS else "service_healthy"
            assert how == {"condition": wanted}, f"{name} → {one}"


@pytest.mark.parametrize("size", SIZES)
def test_somebody_waits_for_every_job(size: str) -> None:
    # Otherwise `up --wait` takes the end of a job for a failure, however well it ended.
    waited_for = {one for service in SIZES[size].values() for one in service.get("depends_on", {})}

    assert {name for name in SIZES[size] if name in JOBS} <= waited_for


def test_every_image_is_pinned_by_a_version_and_none_by_an_invented_digest() -> None:
    images = {service["image"] for services in SIZES.values() for service in services.values()}
    images |= set(re.findall(r"^ARG \w+_IMAGE=(\S+)$", "".join(file.read_text() for file in DOCKERFILES), re.MULTILINE))
    for image in images:
        name, _, tag = re.sub(r"^\$\{\w+:-|\}$", "", image).rpartition(":")
        assert name, image
        assert "@" not in image
        assert tag == "local" or re.search(r"\d+\.\d+", tag), image


def test_kafka_is_the_same_version_everywhere() -> None:
    version = re.search(r"<kafka.version>([\d.]+)<", (DEPLOY / "local" / "kafka" / "pom.xml").read_text())
    assert version
    for place in ("connect/sink/pom.xml", "connect/Dockerfile", "compose.yaml"):
        assert f"{version[1]}" in (DEPLOY / place).read_text(), place


def test_what_is_mounted_is_in_the_tree() -> None:
    for services in SIZES.values():
        for name, service in services.items():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                if source.startswith("./"):
                    assert (DEPLOY / source).exists(), f"{name}: {source}"


def test_the_secrets_are_handed_to_a_volume_for_each_that_reads_some() -> None:
    handed = [volume.split(":")[:2] for volume in BASE["secrets"]["volumes"]]
    kept = "/var/lib/codebank/secrets"

    assert handed[0] == ["secrets", kept]
    assert {name: place for name, place in handed[1:]} == {f"secrets-{one}": f"{kept}/seen-by/{one}" for one in SEEN}
    # Who writes to them owns them, because the image has their folders.
    assert set(runpy.run_path(str(DEPLOY / "image.py"))["SEEN_BY"]) == set(SEEN)
    for name, service in SIZES["full"].items():
        mounted = [volume for volume in service.get("volumes", []) if f":{kept}" in volume]
        assert name == "secrets" or len(mounted) <= 1, name
        assert name == "secrets" or all(re.fullmatch(rf"secrets-\w+:{kept}:ro,nocopy", one) for one in mounted), name


def test_the_readme_uses_the_file_that_is_tested() -> None:
    assert all("-f deploy/compose.yaml" in command for command in readme_commands())


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_dockerfiles_are_clean(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    program = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    assert program, "hadolint is one of the development packages"
    # Stand-ins take what Debian has today; they are thrown away.
    rules = ("DL3006", "DL3008", "DL3009") if {"standin", "mesh"} & set(file.parts) else ()
    ignored = [f"--ignore={rule}" for rule in rules]

    done = subprocess.run([program, *ignored, str(file)], capture_output=True, text=True)

    assert done.stdout + done.stderr == ""
