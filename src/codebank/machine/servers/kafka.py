"""Brokers that are controllers too (KRaft), and Kafka Connect, as processes of this machine."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.machine.servers.java import server_environment
from codebank.machine.servers.ready import port_is_open, url_answers
from codebank.machine.supervisor import Child

#: Kept small: a broker here serves one developer. What each really takes is printed by `make kafka`.
SMALL_JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-XX:ReservedCodeCacheSize=48m",
    "-XX:MaxDirectMemorySize=64m",
)
_BROKER_HEAP: Final = "-Xmx96m"
_CONNECT_HEAP: Final = "-Xmx160m"


@dataclass(frozen=True)
class KafkaCluster:
    """Brokers 1, 2, 3 … of one cluster, each with a folder."""

    folder: Path
    #: Where the programs are, and their logging's configuration.
    libraries: Path
    logging: Path
    java: Path
    #: Client port of each broker; its controller listens on the next one.
    ports: Sequence[int]
    #: More properties of every broker.
    properties: Mapping[str, str]

    @property
    def bootstrap(self) -> str:
        """Give the address of the brokers."""
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def prepare(self) -> None:
        """Write every broker's configuration, and format its folder where that was not done."""
        cluster_id = base64.urlsafe_b64encode(hashlib.sha256(bytes(self.folder)).digest()[:16]).decode().rstrip("=")
        formatting = []
        for number in range(1, len(self.ports) + 1):
            home = self.folder / f"kafka-{number}"
            home.mkdir(parents=True, exist_ok=True)
            configuration = home / "server.properties"
            _write_properties(configuration, self._broker(number, home))
            if not (home / "data" / "meta.properties").exists():
                tool = self._java("-Xmx96m", "kafka.tools.StorageTool", "format", "--config", str(configuration))
                command = [*tool, "--cluster-id", "A" + cluster_id[1:]]
                formatting.append(
                    subprocess.Popen(
                        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=server_environment()
                    )
                )
        for process in formatting:
            said, _ = process.communicate()
            if process.returncode:
                raise CodebankError(Code.INTERNAL, f"a broker's folder could not be formatted:\n{said.decode()}")

    def _java(self, heap: str, *command: str) -> list[str]:
        return [
            str(self.java / "bin" / "java"),
            heap,
            *SMALL_JVM,
            f"-Dlog4j2.configurationFile={self.logging}",
            "-cp",
            f"{self.libraries}/*",
            *command,
        ]

    def _broker(self, number: int, home: Path) -> dict[str, str]:
        port, count = self.ports[number - 1], len(self.ports)
        replicas, in_sync = str(min(3, count)), "2" if count >= 3 else "1"
        return {
            "process.roles": "broker,controller",
            "node.id": str(number),
            "controller.quorum.voters": ",".join(
                f"{other}@127.0.0.1:{self.ports[other - 1] + 1}" for other in range(1, count + 1)
            ),
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{port + 1}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(home / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "offsets.topic.num.partitions": "5",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "transaction.state.log.num.partitions": "5",
            "unclean.leader.election.enable": "false",
            # A broker that died is noticed within seconds, a group waits for nobody at its start.
            "broker.heartbeat.interval.ms": "1000",
            "broker.session.timeout.ms": "6000",
            "group.initial.rebalance.delay.ms": "0",
            "controlled.shutdown.max.retries": "1",
            # Small machines: few threads, small buffers.
            "num.network.threads": "2",
            "num.io.threads": "2",
            "background.threads": "2",
            "log.cleaner.dedupe.buffer.size": "16777216",
            "log.segment.bytes": "67108864",
            "log.index.size.max.bytes": "1048576",
            **self.properties,
        }

    def brokers(self) -> list[Child]:
        """Give the brokers as processes to keep running."""
        children = []
        for number, port in enumerate(self.ports, start=1):
            home = self.folder / f"kafka-{number}"

            async def ready(port: int = port) -> bool:
                return await port_is_open(port)

            children.append(
                Child(
                    name=f"kafka-{number}",
                    argv=self._java(_BROKER_HEAP, "kafka.Kafka", str(home / "server.properties")),
                    env=server_environment(),
                    ready=ready,
                    log_path=home / "broker.log",
                    group="first",
                )
            )
        return children

    def connect(self, port: int, plugins: Path) -> Child:
        """Give a distributed Connect worker as a process to keep running."""
        home = self.folder / "connect"
        home.mkdir(parents=True, exist_ok=True)
        configuration = home / "worker.properties"
        _write_properties(configuration, self._worker(port, plugins))

        async def ready() -> bool:
            return await url_answers(f"http://127.0.0.1:{port}/connectors")

        return Child(
            name="connect",
            argv=self._java(_CONNECT_HEAP, "org.apache.kafka.connect.cli.ConnectDistributed", str(configuration)),
            env=server_environment(),
            ready=ready,
            log_path=home / "worker.log",
            group="second",
        )

    def _worker(self, port: int, plugins: Path) -> dict[str, str]:
        replicas = str(min(3, len(self.ports)))
        kept = {f"{kind}.storage.topic": f"codebank.connect.{kind}" for kind in ("config", "offset", "status")} | {
            f"{kind}.storage.replication.factor": replicas for kind in ("config", "offset", "status")
        }
        return {
            "bootstrap.servers": self.bootstrap,
            "group.id": "codebank.connect",
            "listeners": f"HTTP://127.0.0.1:{port}",
            "rest.advertised.host.name": "127.0.0.1",
            "rest.advertised.port": str(port),
            **kept,
            "offset.storage.partitions": "5",
            "status.storage.partitions": "1",
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "false",
            "plugin.path": str(plugins),
            # The other ways of discovery read every class of every library: three times the memory.
            "plugin.discovery": "service_load",
            "offset.flush.interval.ms": "1000",
            "connector.client.config.override.policy": "All",
            # A worker that died gives its tasks away within seconds.
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "2000",
            "scheduled.rebalance.max.delay.ms": "0",
            "consumer.session.timeout.ms": "6000",
            "consumer.heartbeat.interval.ms": "2000",
        }


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
