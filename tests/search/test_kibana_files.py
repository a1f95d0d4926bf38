"""The file for Kibana: whole, resolvable, and asking only for what the index has and a query's result gives."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from codebank.events import PAYMENTS_TOPIC, DeclineCode, PaymentStatus
from tests.search import kibana
from tests.search.kibana import (
    FOLDER,
    Json,
    aggregations,
    field_uses,
    fields_read,
    panel_queries,
    placeholders,
    saved_objects,
    specs,
)

MAPPING = {
    name: field["type"]
    for name, field in json.loads((FOLDER.parents[1] / "search" / "payments.json").read_text())["template"]["mappings"][
        "properties"
    ].items()
}
NUMBERS = {"long", "integer"}
#: The types of fields that an aggregation or a query takes here. What is not in it needs a fuller Elasticsearch than
#: the one that runs these queries in the tests.
FITS = {
    "terms": {"keyword", *NUMBERS},
    "term": {"keyword", *NUMBERS},
    "range": {"date", *NUMBERS},
    "date_histogram": {"date"},
    "sum": NUMBERS,
    "percentiles": NUMBERS,
    "value_count": {"keyword", "date", *NUMBERS},
}
PANELS = specs()
each_panel = pytest.mark.parametrize("title", PANELS)


def dashboard() -> Json:
    (found,) = [item for item in saved_objects() if item["type"] == "dashboard"]
    return found


def shape(aggs: Json) -> Json:
    """Give the form of the result of aggregations: an object's keys, a list of one form, None for a plain value."""
    found: Json = {}
    for name, aggregation in aggs.items():
        (kind,) = set(aggregation) - {"aggs"}
        inner = shape(aggregation.get("aggs", {}))
        if kind == "filter":
            found[name] = {"doc_count": None, **inner}
        elif kind in {"terms", "date_histogram", "range"}:
            limits = {"from": None, "to": None} if kind == "range" else {}
            found[name] = {"buckets": [{"key": None, "doc_count": None, **limits, **inner}]}
        elif kind == "percentiles":
            assert aggregation[kind]["keyed"] is False
            found[name] = {"values": [{"key": None, "value": None}]}
        else:
            found[name] = {"value": None}
    return found


def at(row: Any, path: str) -> Any:
    """Follow a path such as `.name.buckets[0].key`; a name that is not there is a KeyError."""
    for name, place in re.findall(r"(\w+)|\[(\d+)\]", path):
        if place:
            assert isinstance(row, list), path
            row = row[0]
        else:
            row = (row or {})[name]
    return row


def after_step(row: Json, step: Json) -> Json:
    """Check what one step of a drawing reads, and give the row with what it adds."""
    row = dict(row)
    (kind,) = set(step) & {"calculate", "filter", "fold", "flatten", "joinaggregate", "window", "stack"}
    if kind in {"calculate", "filter"}:
        for path in re.findall(r"datum((?:\.\w+|\[\d+\])+)", step[kind]):
            assert at(row, path) is None, path
        row.update({step["as"]: None} if kind == "calculate" else {})
    elif kind == "fold":
        for name in step["fold"]:
            assert at(row, name) is None
        row.update(dict.fromkeys(step["as"]))
    elif kind == "flatten":
        for path, name in zip(step["flatten"], step["as"], strict=True):
            row[name] = at(row, f".{path}[0]")
    elif kind == "stack":
        assert [at(row, name) for name in (step["stack"], *step["groupby"])] == [None] * (1 + len(step["groupby"]))
        row.update(dict.fromkeys(step["as"]))
    else:
        for read in [*step[kind], *step.get("sort", [])]:
            assert "field" not in read or at(row, read["field"]) is None
        row.update({made["as"]: None for made in step[kind]})
    return row


def check_reads(spec: Json) -> None:
    """Fail where a drawing reads what neither its query's result nor a step before has."""
    root, *path = spec["data"]["format"]["property"].split(".")
    assert root == "aggregations"
    row: Any = shape(spec["data"]["url"]["body"]["aggs"])
    for name in path:
        row = row[name]
    row = row[0] if isinstance(row, list) else row
    for step in spec["transform"]:
        row = after_step(row, step)
    for channel in spec["encoding"].values():
        for read in channel if isinstance(channel, list) else [channel]:
            assert "datum" in read or at(row, read["field"]) is None
            sort = read.get("sort")
            if isinstance(sort, dict):
                assert at(row, sort["field"]) is None
            elif sort:
                assert sort.removeprefix("-") in spec["encoding"]


def values_of(field: str, value: Any) -> Iterator[str]:
    """Give every word that a query compares a field with."""
    if isinstance(value, list):
        for item in value:
            yield from values_of(field, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == field:
                yield from item if isinstance(item, list) else [item]
            else:
                yield from values_of(field, item)


def test_the_file_is_what_make_writes() -> None:
    made = runpy.run_path(str(FOLDER / "make.py"))["content"]()

    assert made == (FOLDER / "payments.ndjson").read_text(encoding="utf-8"), "run deploy/observability/kibana/make.py"


def test_every_object_is_one_of_its_own_and_says_its_version() -> None:
    objects = saved_objects()

    assert len({item["id"] for item in objects}) == len(objects)
    assert len(PANELS) == len([item for item in objects if item["type"] == "visualization"])
    assert {item["type"]: item["typeMigrationVersion"] for item in objects} == {
        "index-pattern": "8.0.0",
        "visualization": "8.5.0",
        "dashboard": "8.9.0",
    }


def test_every_reference_is_to_an_object_before_it_in_the_file() -> None:
    known: set[tuple[str, str]] = set()
    for item in saved_objects():
        names = [reference["name"] for reference in item["references"]]
        assert len(set(names)) == len(names)
        assert {(reference["type"], reference["id"]) for reference in item["references"]} <= known
        known.add((item["type"], item["id"]))
        source = json.loads(item["attributes"].get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
        assert "indexRefName" not in source or source["indexRefName"] in names


def test_the_data_view_is_of_the_index_and_its_time() -> None:
    (view,) = [item for item in saved_objects() if item["type"] == "index-pattern"]

    assert view["id"] == "codebank-payments"
    assert view["attributes"]["title"] == PAYMENTS_TOPIC
    assert MAPPING[view["attributes"]["timeFieldName"]] == "date"
    assert json.loads(view["attributes"]["fieldAttrs"]).keys() <= MAPPING.keys()


def test_every_panel_of_the_dashboard_is_a_reference_and_every_drawing_is_a_panel() -> None:
    panels = json.loads(dashboard()["attributes"]["panelsJSON"])
    references = {reference["name"]: reference for reference in dashboard()["references"]}

    # Kibana finds a panel's references by the panel's index before the colon.
    assert [f"{panel['panelIndex']}:{panel['panelRefName']}" for panel in panels] == list(references)
    assert [panel["type"] for panel in panels] == [reference["type"] for reference in references.values()]
    assert {reference["id"] for reference in references.values()} == {
        item["id"] for item in saved_objects() if item["type"] == "visualization"
    }


def test_no_panel_lies_on_another() -> None:
    panels = json.loads(dashboard()["attributes"]["panelsJSON"])
    grids = [panel["gridData"] for panel in panels]

    assert [grid["i"] for grid in grids] == [panel["panelIndex"] for panel in panels]
    assert all(grid["x"] + grid["w"] <= 48 for grid in grids)
    for one, other in combinations(grids, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_a_panel_has_one_title() -> None:
    for item in saved_objects():
        if item["type"] == "visualization":
            state = json.loads(item["attributes"]["visState"])
            assert (state["title"], state["type"]) == (item["attributes"]["title"], "vega")
            assert item["attributes"]["description"]


@each_panel
def test_a_panel_asks_for_the_index_in_the_time_of_the_dashboard(title: str) -> None:
    url = PANELS[title]["data"]["url"]

    assert {key: url[key] for key in url if key != "body"} == {
        "index": PAYMENTS_TOPIC,
        "%context%": True,
        "%timefield%": "created_at",
    }
    assert url["body"]["size"] == 0
    # Kibana refuses a query of the panel's own beside its context.
    assert set(url["body"]) == {"size", "aggs"}


@each_panel
def test_only_placeholders_that_kibana_knows_are_left_to_it(title: str) -> None:
    spec = deepcopy(PANELS[title])
    known = {"%context%", "%timefield%", "%timefilter%", "%autointerval%"}

    assert set(placeholders(spec.pop("data"))) <= known
    assert list(placeholders(spec)) == []
    assert list(placeholders(panel_queries()[title][1])) == []


@each_panel
def test_every_field_exists_with_a_type_that_fits(title: str) -> None:
    body = panel_queries()[title][1]

    assert fields_read(body) > {"created_at"}
    assert [use for use in field_uses(body) if MAPPING[use[1]] not in FITS[use[0]]] == []
    assert {kind for _, kind, _ in aggregations(body["aggs"])} <= {"filter", *FITS}
    assert set(values_of("status", body)) <= set(PaymentStatus)


@each_panel
def test_a_drawing_reads_what_its_query_gives(title: str) -> None:
    check_reads(PANELS[title])


@pytest.mark.parametrize(
    ("where", "name"), [("data", "time.buckets"), ("transform", "approved.doc_count"), ("encoding", "rate")]
)
def test_a_misspelt_name_is_found(where: str, name: str) -> None:
    spec = deepcopy(PANELS["Taxa de aprovação ao longo do tempo"])
    spec[where] = json.loads(json.dumps(spec[where]).replace(name, "misspelt"))

    with pytest.raises(KeyError, match="misspelt"):
        check_reads(spec)


def test_a_placeholder_that_nobody_replaces_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = deepcopy(PANELS["Pagamentos"])
    spec["data"]["url"]["body"]["aggs"]["payments"]["%timefield%"] = "created_at"
    monkeypatch.setattr(kibana, "specs", lambda: {"Pagamentos": spec})

    with pytest.raises(ValueError, match="does not replace %timefield%"):
        panel_queries()


def test_every_decline_code_has_a_name() -> None:
    (reason,) = [step["calculate"] for step in PANELS["Motivos de recusa"]["transform"]]
    names = json.loads(reason[: reason.index("}") + 1])

    assert names.keys() == set(DeclineCode)


@pytest.mark.parametrize(("days", "kind"), [(1, "fixed"), (30, "fixed"), (365, "calendar"), (3650, "calendar")])
def test_the_time_of_the_dashboard_is_in_the_query(days: int, kind: str) -> None:
    since = datetime(2026, 1, 1, tzinfo=UTC)
    until = since + timedelta(days=days)

    index, body = panel_queries(since, until)["Pagamentos por situação"]

    histogram = body["aggs"]["time"]["date_histogram"]
    assert index == PAYMENTS_TOPIC
    assert [key for key in histogram if key.endswith("interval")] == [f"{kind}_interval"]
    assert histogram["extended_bounds"]["max"] - histogram["extended_bounds"]["min"] == days * 86_400_000
    assert body["query"]["bool"]["must"][0]["range"]["created_at"]["gte"] == "2026-01-01T00:00:00+00:00"
