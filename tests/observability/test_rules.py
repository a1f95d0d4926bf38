"""Rules and alerts: they ask for metrics that exist, say what to do, and each alert was seen to fire, and not to."""

from __future__ import annotations

import re
from collections import Counter as Count
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from prometheus_client import Counter, Histogram

from codebank.roles import METRICS, ROLES
from codebank.settings import Settings
from tests.observability import promql
from tests.observability.files import FOLDER, RULES, Query, alerts, panel_queries, read, rule_queries, rules, runbooks
from tests.observability.promql import Selector

KNOWN = {metric.name: metric for metric in METRICS}
#: What a scrape adds to every series.
SCRAPED = {"job", "instance", "role"}
FOREIGN = {
    "up": SCRAPED,
    "ALERTS": {*SCRAPED, "alertname", "alertstate", "severity"},
    "process_cpu_seconds_total": SCRAPED,
    "process_resident_memory_bytes": SCRAPED,
    "process_open_fds": SCRAPED,
    "process_start_time_seconds": SCRAPED,
    "node_filesystem_avail_bytes": {*SCRAPED, "device", "fstype", "mountpoint"},
    "node_filesystem_size_bytes": {*SCRAPED, "device", "fstype", "mountpoint"},
}
each_query = pytest.mark.parametrize("query", [*panel_queries(), *rule_queries()], ids=lambda query: query.where)


@cache
def recorded() -> dict[str, set[str]]:
    """Give the labels of every recorded series."""
    found: dict[str, set[str]] = {}
    for rule in rules("recording"):
        kept = promql.kept_labels(rule["expr"], inner_labels(rule["expr"], found))
        found.setdefault(rule["record"], set()).update(kept, rule.get("labels", {}))
    return found


def labels_of(selector: Selector, known: dict[str, set[str]]) -> set[str]:
    """Give the labels that a series may have; KeyError where it does not exist."""
    if selector.name in known or selector.name in FOREIGN:
        return known.get(selector.name) or FOREIGN.get(selector.name, set())
    name = re.sub(r"_(bucket|sum|count)$", "", selector.name)
    if name == selector.name:
        metric = KNOWN[name]
        assert metric.kind is not Histogram, f"{name} is a histogram: ask for _bucket, _sum or _count"
        assert (metric.kind is Counter) == name.endswith("_total"), name
        return {*metric.labels, *SCRAPED}
    metric = KNOWN[name]
    assert metric.kind is Histogram, name
    for label, _, value in selector.matchers:
        # A bucket that does not exist would be an alert that never fires.
        assert label != "le" or value in {str(float(bucket)) for bucket in metric.buckets}, f"{name} has no {value}"
    return {*metric.labels, *SCRAPED, "le"}


def inner_labels(expr: str, known: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    for selector in promql.selectors(expr):
        labels = labels_of(selector, known)
        asked = {label for label, _, _ in selector.matchers}
        assert asked <= labels, f"{selector.name} has no {asked - labels}"
        found |= labels
    return found


@each_query
def test_every_metric_and_label_that_is_asked_for_exists(query: Query) -> None:
    inner = inner_labels(query.expr, recorded())

    assert promql.selectors(query.expr) or "vector(" in query.expr
    assert promql.grouped_by(query.expr) <= inner


def test_a_metric_that_does_not_exist_is_noticed() -> None:
    for expr in (
        "sum(rate(codebank_payment_total[5m]))",
        'codebank_queue_items{shop="a"}',
        'codebank_rpc_seconds_bucket{le="0.3"}',
        "codebank_rpc_seconds",
    ):
        with pytest.raises((KeyError, AssertionError)):
            inner_labels(expr, recorded())


def asked_for() -> set[str]:
    queries = (*panel_queries(), *rule_queries())
    return {selector.name for query in queries for selector in promql.selectors(query.expr)}


def test_every_metric_is_watched_by_someone() -> None:
    asked = {
        selector.name for query in (*panel_queries(), *rule_queries()) for selector in promql.selectors(query.expr)
    }
    asked |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}

    assert [metric.name for metric in METRICS if metric.name not in asked] == []


def test_every_recorded_series_is_read_by_someone() -> None:
    asked = {
        selector.name for query in (*panel_queries(), *rule_queries()) for selector in promql.selectors(query.expr)
    }

    assert set(recorded()) - asked == set()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    alert = alerts()[name]

    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbooks.md"
    assert anchor in runbooks()


def alert_cases() -> Iterator[tuple[str, bool]]:
    for path in (RULES / "tests").glob("*.yaml"):
        for case in read(path)["tests"]:
            for test in case.get("alert_rule_test", []):
                yield test["alertname"], bool(test["exp_alerts"])


@pytest.mark.parametrize("name", alerts())
def test_an_alert_is_seen_to_fire_and_not_to_fire(name: str) -> None:
    seen = Count(alert_cases())

    assert seen[(name, True)] > 0, f"{name} was never seen to fire"
    assert seen[(name, False)] > 0, f"{name} was never seen not to fire"


@pytest.mark.parametrize("path", sorted((RULES / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_cases_know_every_group_in_the_order_in_which_one_reads_the_other(path: Path) -> None:
    groups = [group["name"] for name in ("recording", "alerts") for group in read(RULES / f"{name}.yaml")["groups"]]

    assert len(set(groups)) == len(groups)
    assert sorted(read(path)["group_eval_order"]) == sorted(groups)
    # What is not in order is worked out at any time: an alert would now and then see the figure of a minute ago.
    alerting = [name.endswith("-alerts") for name in read(path)["group_eval_order"]]
    assert alerting == sorted(alerting)


def test_no_case_is_about_an_alert_that_is_gone() -> None:
    assert {name for name, _ in alert_cases()} <= set(alerts())


def test_alertmanager_knows_the_alerts_and_has_nobody_to_tell_out_of_the_box() -> None:
    config = read(FOLDER / "alertmanager" / "alertmanager.yaml")

    named = re.findall(r'alertname!?="(\w+)"', str(config["inhibit_rules"]))
    assert named
    assert set(named) <= set(alerts())
    assert config["receivers"] == [{"name": config["route"]["receiver"]}]


def test_the_death_of_a_role_silences_what_it_explains() -> None:
    roles = {name: alert["labels"].get("role") for name, alert in alerts().items()}

    assert set(roles.values()) <= {*ROLES, None}
    assert roles["NoRelayLeads"] == roles["OutboxAges"] == "relay"
    assert roles["RoleDown"] is None
    assert all(f'role="{role}"' in alerts()["RoleDown"]["expr"] for role in ROLES)


def test_prometheus_scrapes_every_role_at_its_health_port() -> None:
    config = read(FOLDER / "prometheus" / "prometheus.yaml")
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "codebank"]
    scraped = {static["labels"]["role"]: static["targets"] for static in job["static_configs"]}

    assert scraped == {name: [f"{name}:{getattr(Settings(), role.health_port)}"] for name, role in ROLES.items()}
