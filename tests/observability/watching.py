"""The whole system as `codebank up` runs it, watched by the real programs with the rules as they are shipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from codebank.roles import ROLES
from codebank.runtime.children import die_with_parent
from codebank.settings import Settings
from tests.kafka.machine import until
from tests.observability.files import FOLDER, RULES, Json, read
from tests.system import CODEBANK, PORTS, children, free_port, own_environment

WATCHERS = ("prometheus", "alertmanager", "node_exporter")
#: Alerts that wait for minutes in the rules wait for this long here.
SHORT = "2s"


class Hook:
    """The operator's webhook: keeps every message of Alertmanager."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        keep = self.messages.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Watched:
    """One `up`, its Prometheus, its Alertmanager, and its node_exporter."""

    folder: Path
    programs: Mapping[str, str]
    hook: Hook = field(default_factory=Hook)
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in (*PORTS, *WATCHERS)})
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start everything, and wait until it can be used."""
        # An unknown outcome is known to be one soon.
        soon = {"call_budget_seconds": 2, "resolve_after_seconds": 1, "cancel_after_seconds": 3}
        own = {name: self.ports[name] for name in PORTS}
        self._run("up", [*CODEBANK, "up"], own_environment(self.folder / "state", **own, **soon))
        self._configure()
        at = {name: f"127.0.0.1:{self.ports[name]}" for name in WATCHERS}
        self._run("node_exporter", [self.programs["node_exporter"], f"--web.listen-address={at['node_exporter']}"])
        self._run(
            "alertmanager",
            [
                self.programs["alertmanager"],
                f"--config.file={self.folder}/alertmanager.yaml",
                f"--storage.path={self.folder}/alertmanager",
                f"--web.listen-address={at['alertmanager']}",
                "--cluster.listen-address=",
            ],
        )
        self._run(
            "prometheus",
            [
                self.programs["prometheus"],
                f"--config.file={self.folder}/prometheus.yaml",
                f"--storage.tsdb.path={self.folder}/prometheus",
                f"--web.listen-address={at['prometheus']}",
            ],
        )
        until(lambda: "Ctrl-C stops it." in self._said("up") or self._ended(), 90, "up")
        assert not self._ended(), f"{self._ended()} ended: {self._said(self._ended() or 'up')}"
        until(lambda: all(value == 1 for _, value in self.ask("up")) and len(self.ask("up")) == 9, 60, "all scraped")

    def stop(self) -> None:
        """Stop everything in order."""
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGCONT)
            # Not SIGINT: whoever is started in the background of a shell does not hear it.
            process.terminate()
            process.wait(60)
        self.hook.stop()

    @property
    def settings(self) -> Settings:
        """The settings with which the system runs."""
        return Settings.load(json.loads((self.folder / "state" / "running.json").read_text()))

    def signal(self, role: str, number: signal.Signals) -> None:
        """Send a signal to a role's process."""
        (process,) = children(self.folder / "state", role)
        os.kill(process, number)

    def ask(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Ask Prometheus as Grafana would; a query that it refuses is an error."""
        answer = self._get("prometheus", "/api/v1/query", query=query)
        if answer is None:
            return []
        assert answer["status"] == "success", f"{query}: {answer}"
        found = answer["data"]["result"]
        if answer["data"]["resultType"] == "scalar":
            return [({}, float(found[1]))]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def rules(self) -> list[Json]:
        """Give every rule as Prometheus last evaluated it."""
        answer = self._get("prometheus", "/api/v1/rules")
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    def alerts(self) -> dict[str, Json]:
        """Give what Alertmanager knows to fire, by name."""
        return {alert["labels"]["alertname"]: alert for alert in self._get("alertmanager", "/api/v2/alerts") or []}

    def _get(self, name: str, path: str, **parameters: str) -> Any:
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}{path}", params=parameters, timeout=20).json()
        except httpx.TransportError:
            return None

    def _configure(self) -> None:
        """Point the shipped files to this machine's ports, and let nothing wait for minutes."""
        folder = self.folder / "rules"
        folder.mkdir()
        for path in RULES.glob("*.yaml"):
            rules = read(path)
            for group in rules["groups"]:
                group["interval"] = "1s"
                for rule in group["rules"]:
                    rule.update({"for": SHORT} if "for" in rule else {})
            (folder / path.name).write_text(yaml.safe_dump(rules))
        places = {f"{name}:{getattr(Settings(), role.health_port)}": role.health_port for name, role in ROLES.items()}
        places |= {"localhost:9090": "prometheus", "alertmanager:9093": "alertmanager"}
        places |= {"node-exporter:9100": "node_exporter"}
        text = (FOLDER / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8").replace("15s", "1s")
        for place, name in places.items():
            assert place in text, place
            text = text.replace(place, f"127.0.0.1:{self.ports[name]}")
        (self.folder / "prometheus.yaml").write_text(text)
        config = read(FOLDER / "alertmanager" / "alertmanager.yaml")
        for route in (config["route"], *config["route"]["routes"]):
            route.update(group_wait="1s", group_interval="1s")
        config["receivers"][0]["webhook_configs"] = [{"url": self.hook.url, "send_resolved": True}]
        (self.folder / "alertmanager.yaml").write_text(yaml.safe_dump(config))

    def _run(self, name: str, words: list[str], environment: Mapping[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent(signal.SIGTERM)
            )

    def _said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def _ended(self) -> str | None:
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)
