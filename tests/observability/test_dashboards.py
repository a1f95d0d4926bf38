"""The dashboards: made from what is written down, whole, and readable without asking anyone."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

from tests.observability import promql
from tests.observability.files import (
    DASHBOARDS,
    FOLDER,
    Query,
    boards,
    panel_queries,
    panels,
    read,
    runbooks,
)
from tests.observability.test_rules import inner_labels, recorded

SOURCE = {"type": "prometheus", "uid": "codebank-prometheus"}
#: Units that Grafana knows and we use.
UNITS = {"none", "short", "percentunit", "s", "d", "bytes", "ops", "reqps", "eps", "cpm", "currencyBRL"}
KINDS = {"timeseries", "stat", "bargauge", "table", "state-timeline"}
each_board = pytest.mark.parametrize("name", boards())


def test_the_dashboards_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "grafana" / "make.py"), str(tmp_path)], check=True)

    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS.iterdir()}
    assert made == kept, "run `make dashboards`"


def test_there_are_five_and_each_has_an_address_of_its_own() -> None:
    assert {name: board["uid"] for name, board in boards().items()} == {
        name: f"codebank-{name}" for name in ("bank", "kafka", "payments", "proof", "statement")
    }


@each_board
def test_a_dashboard_is_whole_and_linked_with_the_others(name: str) -> None:
    board = boards()[name]

    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    assert board["description"]
    assert board["tags"] == ["codebank"]
    assert [link["tags"] for link in board["links"] if link["type"] == "dashboards"] == [["codebank"]]
    assert not board["templating"].get("list")


@each_board
def test_panels_lie_on_the_grid_and_never_on_one_another(name: str) -> None:
    places = [panel["gridPos"] for panel in boards()[name]["panels"]]

    for place in places:
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart_across = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_down = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_across or apart_down
    # Every line of panels is as wide as the page.
    for top in {place["y"] for place in places}:
        assert sum(place["w"] for place in places if place["y"] == top) == 24


@each_board
def test_a_panel_says_what_it_shows(name: str) -> None:
    for panel in panels(boards()[name]):
        where = f"{name}: {panel['title']}"
        assert panel["type"] in KINDS, where
        assert len(panel["description"]) > 8, where
        assert panel["description"].partition("\n")[0].endswith("."), where
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, where
        assert panel["datasource"] == SOURCE, where
        assert panel["targets"], where
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), where
        assert all(target["datasource"] == SOURCE for target in panel["targets"]), where


@each_board
def test_the_runbook_that_a_panel_names_exists(name: str) -> None:
    text = "\n".join(panel["description"] for panel in panels(boards()[name]))

    named = re.findall(r"docs/runbooks\.md#([\w-]+)", text)
    assert named
    assert set(named) <= set(runbooks())


@pytest.mark.parametrize("query", panel_queries(), ids=lambda query: query.where)
def test_the_names_of_lines_are_labels_that_there_are(query: Query) -> None:
    kept = promql.kept_labels(query.expr, inner_labels(query.expr, recorded()))

    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= kept


def test_grafana_is_told_of_the_source_and_of_the_folder() -> None:
    (source,) = read(FOLDER / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    (provider,) = read(FOLDER / "grafana" / "provisioning" / "dashboards" / "codebank.yaml")["providers"]

    assert {key: source[key] for key in ("type", "uid")} == SOURCE
    assert provider["type"] == "file"
    assert provider["allowUiUpdates"] is False
