"""The saved objects of Kibana, and the queries of their panels as Kibana would send them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "observability" / "kibana"

#: Wide enough for whatever a test writes.
SINCE: Final = datetime(2020, 1, 1, tzinfo=UTC)
UNTIL: Final = datetime(2040, 1, 1, tzinfo=UTC)

#: What Kibana may choose for a time of at most this length; both kinds of interval are among them.
_INTERVALS: Final = (
    (timedelta(days=1), {"fixed_interval": "30m"}),
    (timedelta(days=60), {"fixed_interval": "12h"}),
    (timedelta(days=730), {"calendar_interval": "1w"}),
    (timedelta.max, {"calendar_interval": "1y"}),
)
#: Queries that name fields as their keys, and those that hold other queries.
_LEAVES: Final = {"term", "terms", "range"}
_CLAUSES: Final = {"must", "filter", "should", "must_not"}


def saved_objects() -> list[Json]:
    """Read every saved object of payments.ndjson."""
    return [json.loads(line) for line in (FOLDER / "payments.ndjson").read_text(encoding="utf-8").splitlines()]


def specs() -> dict[str, Json]:
    """Give the Vega-Lite specification of every panel, by its title."""
    found: dict[str, Json] = {}
    for item in saved_objects():
        if item["type"] == "visualization":
            state = json.loads(item["attributes"]["visState"])
            found[item["attributes"]["title"]] = json.loads(state["params"]["spec"])
    return found


def panel_queries(since: datetime = SINCE, until: datetime = UNTIL) -> dict[str, tuple[str, Json]]:
    """Give index and query of every panel, by its title, as Kibana sends them for a dashboard of this time."""
    return {title: _request(spec["data"]["url"], since, until) for title, spec in specs().items()}


def fields_read(body: Json) -> set[str]:
    """Give the fields that a query names."""
    return {field for _, field in field_uses(body)}


def field_uses(body: Json) -> Iterator[tuple[str, str]]:
    """Give what a query does with which field: the name of an aggregation, or of a query."""
    if "query" in body:
        yield from _query_uses(body["query"])
    for _, kind, value in aggregations(body.get("aggs", {})):
        if kind == "filter":
            yield from _query_uses(value)
        else:
            yield kind, value["field"]


def aggregations(aggs: Json) -> Iterator[tuple[str, str, Json]]:
    """Give name, kind and parameters of every aggregation, the inner ones too."""
    for name, aggregation in aggs.items():
        for kind, value in aggregation.items():
            if kind == "aggs":
                yield from aggregations(value)
            else:
                yield name, kind, value


def placeholders(value: object) -> Iterator[str]:
    """Give every key or word that is left for Kibana to replace."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from placeholders(key)
            yield from placeholders(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from placeholders(inner)
    elif isinstance(value, str) and value.startswith("%") and value.endswith("%"):
        yield value


def _request(url: Json, since: datetime, until: datetime) -> tuple[str, Json]:
    """Do with `data.url` what Kibana does before it asks Elasticsearch."""
    left = {key: value for key, value in url.items() if key not in ("%context%", "%timefield%")}
    if set(left) != {"index", "body"} or "query" in url["body"]:
        raise ValueError(f"Kibana takes either a query or its own context: {url}")
    body = {key: _filled(value, since, until) for key, value in url["body"].items()}
    # The context is what people filter by: here nothing, so only the time is left.
    context: dict[str, list[Json]] = {"must": [], "filter": [], "should": [], "must_not": []}
    if field := url.get("%timefield%"):
        limits = {"gte": since.isoformat(), "lte": until.isoformat(), "format": "strict_date_optional_time"}
        context["must"].append({"range": {field: limits}})
    body["query"] = {"bool": context}
    return url["index"], body


def _filled(value: Any, since: datetime, until: datetime) -> Any:
    """Replace the placeholders of a part of a query; one that nobody knows is an error."""
    if isinstance(value, list):
        return [_filled(item, since, until) for item in value]
    if not isinstance(value, dict):
        return value
    if "%timefilter%" in value:
        bound = {"min": since, "max": until}[value["%timefilter%"]]
        return round(bound.timestamp() * 1000)
    filled: Json = {}
    for key, item in value.items():
        if key == "interval" and isinstance(item, dict):
            filled.update(_interval(item, until - since))
        elif key.startswith("%"):
            raise ValueError(f"Kibana does not replace {key} here")
        else:
            filled[key] = _filled(item, since, until)
    return filled


def _interval(wish: Json, span: timedelta) -> Json:
    """Choose how long a bucket of a date histogram is."""
    buckets = wish.get("%autointerval%")
    if set(wish) != {"%autointerval%"} or not isinstance(buckets, int):
        raise ValueError(f"Kibana knows true or a number of buckets, not {wish}")
    return next(dict(interval) for longest, interval in _INTERVALS if span <= longest)


def _query_uses(query: Json) -> Iterator[tuple[str, str]]:
    """Give what a query of Elasticsearch does with which field."""
    for kind, value in query.items():
        if kind in _LEAVES:
            for field in value:
                yield kind, field
        elif kind == "bool":
            for clause, inner in value.items():
                if clause not in _CLAUSES:
                    raise ValueError(f"an unknown clause: {clause}")
                for item in inner if isinstance(inner, list) else [inner]:
                    yield from _query_uses(item)
        else:
            raise ValueError(f"an unknown query: {kind}")
