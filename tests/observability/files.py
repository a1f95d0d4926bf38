"""The rules, the alerts and the dashboards, as one reads them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

Json = dict[str, Any]

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "deploy" / "observability"
RULES: Final = FOLDER / "prometheus" / "rules"
DASHBOARDS: Final = FOLDER / "grafana" / "dashboards"
RUNBOOKS: Final = ROOT / "docs" / "runbooks.md"


@dataclass(frozen=True)
class Query:
    """One query of one panel, or of one rule."""

    where: str
    expr: str
    legend: str = ""

    @property
    def asked(self) -> str:
        """What Grafana would send, with its own variables filled in."""
        return self.expr.replace("$__rate_interval", "1m")


def read(path: Path) -> Any:
    """Read a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules(name: str) -> list[Json]:
    """Give the rules of a file in order."""
    return [rule for group in read(RULES / f"{name}.yaml")["groups"] for rule in group["rules"]]


def alerts() -> dict[str, Json]:
    """Give every alert by its name."""
    return {rule["alert"]: rule for rule in rules("alerts")}


def boards() -> dict[str, Json]:
    """Give every dashboard by the name of its file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(board: Json) -> list[Json]:
    """Give what a dashboard shows, without the rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def panel_queries() -> list[Query]:
    """Give every query of every panel."""
    return [
        Query(f"{name}: {panel['title']}", target["expr"], target.get("legendFormat", ""))
        for name, board in boards().items()
        for panel in panels(board)
        for target in panel["targets"]
    ]


def rule_queries() -> list[Query]:
    """Give the expression of every recording rule and every alert."""
    named = [("alert", rule) for rule in rules("alerts")] + [("record", rule) for rule in rules("recording")]
    return [Query(f"{kind} {rule[kind]} {rule.get('labels', '')}", rule["expr"]) for kind, rule in named]


def runbooks() -> dict[str, str]:
    """Give the text of every run-book by its anchor, as a browser would find it."""
    found = {}
    for part in RUNBOOKS.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        found[re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-")] = text
    return found
