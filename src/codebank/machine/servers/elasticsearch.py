"""One Elasticsearch node as a process of this machine."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from codebank.machine.servers.java import server_environment
from codebank.machine.servers.ready import url_answers
from codebank.machine.supervisor import Child

_HEAP: Final = ("-Xmx256m", "-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_NETWORK: Final = "transport-netty4"


@dataclass(frozen=True)
class SearchNode:
    """A node with its folder; its programs are those of one fetched folder."""

    folder: Path
    libraries: Path
    launcher: Path
    logging: Path
    java: Path
    port: int

    def prepare(self) -> None:
        """Lay the node's home out: its network module apart from the libraries, and its configuration."""
        home = self.folder
        for name in ("config", "plugins", "logs"):
            (home / name).mkdir(parents=True, exist_ok=True)
        module = home / "modules" / _NETWORK
        shutil.rmtree(home / "modules", ignore_errors=True)
        shutil.rmtree(home / "lib", ignore_errors=True)
        module.mkdir(parents=True)
        (home / "lib").mkdir()
        for jar in self.libraries.glob("*.jar"):
            place = module if jar.name.startswith(("netty-", _NETWORK)) else home / "lib"
            (place / jar.name).symlink_to(jar)
            if jar.name.startswith(_NETWORK):
                _unpack_descriptor(jar, module)
        shutil.copy(self.logging, home / "config" / "log4j2.properties")
        (home / "config" / "elasticsearch.yml").write_text(
            "cluster.name: codebank\n"
            "node.name: search-1\n"
            "discovery.type: single-node\n"
            "network.host: 127.0.0.1\n"
            f"http.port: {self.port}\n"
            f"transport.port: {self.port + 100}\n"
            # A nearly full disk is the developer's own affair.
            "cluster.routing.allocation.disk.threshold_enabled: false\n"
        )

    def child(self) -> Child:
        """Give the node as a process to keep running."""

        async def ready() -> bool:
            return await url_answers(f"http://127.0.0.1:{self.port}/_cluster/health?wait_for_status=yellow&timeout=1s")

        return Child(
            name="elasticsearch",
            argv=[
                str(self.java / "bin" / "java"),
                *_HEAP,
                "--enable-native-access=ALL-UNNAMED,org.elasticsearch.nativeaccess,org.apache.lucene.core",
                "--add-modules",
                "jdk.incubator.vector,jdk.net,ALL-MODULE-PATH",
                "--module-path",
                str(self.folder / "lib"),
                f"-Des.path.home={self.folder}",
                str(self.launcher),
                str(self.folder),
            ],
            env=server_environment(),
            ready=ready,
            log_path=self.folder / "logs" / "node.log",
            group="first",
        )


def _unpack_descriptor(jar: Path, module: Path) -> None:
    """Put what describes a module beside it, as a full installation has it."""
    inside = f"META-INF/es-plugins/{_NETWORK}/"
    with zipfile.ZipFile(jar) as archive:
        for name in archive.namelist():
            if name.startswith(inside) and not name.endswith("/"):
                (module / name.removeprefix(inside)).write_bytes(archive.read(name))
