"""`codebank servers`: three brokers, Kafka Connect and Elasticsearch on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.folders import is_plain
from codebank.machine.ports import check_ports
from codebank.machine.servers.elasticsearch import SearchNode
from codebank.machine.servers.java import ELASTICSEARCH_JAVA, KAFKA_JAVA, Say, fetch, find_java, maven
from codebank.machine.servers.kafka import KafkaCluster
from codebank.machine.state_lock import StateLock
from codebank.machine.supervisor import Child, Supervisor
from codebank.machine.unprivileged import make_folder
from codebank.runtime.process import background, when_asked_to_stop
from codebank.settings import PREFIX, Settings

#: Kept beside the state: where the servers of this machine are found while they run.
_SERVERS_FILE: Final = "servers.json"
_BROKERS: Final = 3
_READY_SECONDS: Final = 90
_GRACE_SECONDS: Final = 10


@dataclass
class Servers:
    """The servers of one machine: what is fetched, how each is started, and where it is found."""

    settings: Settings
    say: Say
    #: More properties of every broker.
    broker_properties: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.settings.state / "servers"
        self.software = self.settings.software_folder()

    def prepare(self) -> list[Child]:
        """Fetch what is missing, configure everything, and give the processes in the order of their start."""
        deploy = self.settings.deploy
        if not (deploy / "local").is_dir():
            raise CodebankError(
                Code.FAILED_PRECONDITION,
                f"{deploy} does not hold the files of the servers",
                hint="run it in a checkout, or set CODEBANK_DEPLOY to its folder `deploy`",
            )
        for folder in (self.folder, self.software, deploy):
            if not is_plain(folder):
                raise CodebankError(
                    Code.FAILED_PRECONDITION,
                    f"{folder}: Kafka takes a comma, a colon and letters beyond ASCII in a folder's name for its own",
                    hint="set CODEBANK_STATE to a folder with a plain name; `codebank up` itself runs in any",
                )
        kafka_java, search_java = find_java(KAFKA_JAVA), find_java(ELASTICSEARCH_JAVA)
        self.software.mkdir(parents=True, exist_ok=True)
        local = deploy / "local"
        fetch(kafka_java, local / "kafka", self.software / "kafka", self.say, "Kafka and Kafka Connect")
        search = fetch(search_java, local / "elasticsearch", self.software / "elasticsearch", self.say, "Elasticsearch")
        plugins = build_sink(kafka_java, deploy / "connect" / "sink", self.software, self.say)
        cluster = self.cluster()
        node = SearchNode(
            self.folder / "elasticsearch",
            search,
            local / "elasticsearch" / "Launcher.java",
            local / "elasticsearch" / "log4j2.properties",
            search_java,
            self.settings.elasticsearch_port,
        )
        cluster.prepare()
        node.prepare()
        return [*cluster.brokers(), node.child(), cluster.connect(self.settings.connect_port, plugins)]

    def cluster(self) -> KafkaCluster:
        """Give the brokers."""
        return KafkaCluster(
            folder=self.folder,
            libraries=self.software / "kafka",
            logging=self.settings.deploy / "local" / "kafka" / "log4j2.properties",
            java=find_java(KAFKA_JAVA),
            ports=self.broker_ports(),
            properties=self.broker_properties,
        )

    def broker_ports(self) -> list[int]:
        """Give the client ports of the brokers; each one's controller has the next."""
        return [self.settings.kafka_port + 2 * number for number in range(_BROKERS)]

    def addresses(self) -> dict[str, str]:
        """Give the settings with which the roles find the servers."""
        return {
            "kafka": ",".join(f"127.0.0.1:{port}" for port in self.broker_ports()),
            "connect": f"http://127.0.0.1:{self.settings.connect_port}",
            "elasticsearch": f"http://127.0.0.1:{self.settings.elasticsearch_port}",
        }

    def ports(self) -> list[tuple[int, str, str]]:
        """List every port that is opened, with the setting that moves it and what it is for."""
        brokers = [
            (port + extra, f"{PREFIX}KAFKA_PORT", f"{what} {number}")
            for number, port in enumerate(self.broker_ports(), start=1)
            for extra, what in enumerate(("Kafka broker", "controller of Kafka broker"))
        ]
        search = self.settings.elasticsearch_port
        return [
            *brokers,
            (self.settings.connect_port, f"{PREFIX}CONNECT_PORT", "Kafka Connect"),
            (search, f"{PREFIX}ELASTICSEARCH_PORT", "Elasticsearch"),
            (search + 100, f"{PREFIX}ELASTICSEARCH_PORT", "Elasticsearch's own network"),
        ]


def build_sink(java: Path, source: Path, software: Path, say: Say) -> Path:
    """Build our connector, once for each state of its sources, and give the folder of plug-ins."""
    files = sorted(path for path in [source / "pom.xml", *(source / "src").rglob("*")] if path.is_file())
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
    plugins = software / "plugins"
    built = plugins / "codebank-elasticsearch-sink"
    jar = built / f"{digest}.jar"
    if not jar.exists():
        say("building the Elasticsearch sink (once)")
        # In a copy, so that a checkout is left as it is.
        work = software / "sink"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work, ignore=shutil.ignore_patterns("target"))
        maven(java, work, ["package"], say, "the Elasticsearch sink")
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        shutil.copy(next((work / "target").glob("*-plugin.jar")), jar)
    return plugins


def load_servers(state: Path) -> dict[str, str]:
    """Read where the servers of this machine are found. Raises CodebankError where none run."""
    path = state / _SERVERS_FILE
    if not path.exists():
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            "no Kafka runs on this machine",
            hint="start it with `make kafka`, or say with CODEBANK_KAFKA where one is",
        )
    found: dict[str, str] = json.loads(path.read_text())
    return found


async def run_servers(settings: Settings, say: Say) -> None:
    """Run the servers until Ctrl-C or SIGTERM.

    Raises CodebankError where they run already, where a port is taken, or where Java is missing.
    """
    make_folder(settings.state)
    stop = asyncio.Event()
    when_asked_to_stop(stop.set)
    servers = Servers(settings, say)
    path = settings.state / _SERVERS_FILE
    with StateLock(servers.folder).held(servers.addresses()):
        check_ports(servers.ports())
        children = await asyncio.to_thread(servers.prepare)
        say("starting three brokers and Elasticsearch, then Kafka Connect")
        began = time.monotonic()
        supervisor = Supervisor(children, say, ready_timeout_seconds=_READY_SECONDS, grace_seconds=_GRACE_SECONDS)

        async def run() -> None:
            async with supervisor.running():
                path.write_text(json.dumps(servers.addresses(), indent=2))
                say(f"ready after {time.monotonic() - began:.0f} s")
                _show(servers, supervisor, say)
                await asyncio.Event().wait()

        try:
            async with background(run()):
                await stop.wait()
                path.unlink(missing_ok=True)
                say("stopping")
        finally:
            path.unlink(missing_ok=True)


def _show(servers: Servers, supervisor: Supervisor, say: Say) -> None:
    say("")
    for name, address in servers.addresses().items():
        say(f"  {name:<14} {address}")
    sizes = {name: resident_megabytes(pid) for name, pid in supervisor.pids.items()}
    listed = ", ".join(f"{name} {size}" for name, size in sizes.items() if size)
    say(f"  memory         {sum(sizes.values())} MB: {listed}")
    say(f"  data           {servers.folder}")
    say("")
    say("`codebank up --log kafka` uses them. Ctrl-C stops them; the data stay.")


def resident_megabytes(pid: int) -> int:
    """Tell how much memory a process holds; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize() // 1_000_000
