"""The whole watched by the real programs: every query gives numbers, and an alert reaches whoever is to be told."""

from __future__ import annotations

import contextlib
import math
import signal

import pytest

from tests.kafka.machine import until
from tests.observability.files import Json, panel_queries, rules
from tests.observability.test_promtool import ONLY_WITH_TLS
from tests.observability.watching import Watched

pytestmark = [pytest.mark.observability, pytest.mark.timeout(240), pytest.mark.xdist_group("observability")]


def without_numbers(system: Watched, asked: dict[str, str]) -> list[str]:
    """Ask what has given no number yet; forget what has."""
    for where, query in list(asked.items()):
        if any(math.isfinite(value) for _, value in system.ask(query)):
            del asked[where]
    return sorted(asked)


def assert_numbers(system: Watched, asked: dict[str, str]) -> None:
    with contextlib.suppress(AssertionError):
        until(lambda: not without_numbers(system, asked), 60)
    assert not asked, "no number came of:\n" + "\n".join(sorted(asked))


def test_every_query_of_every_panel_gives_numbers(watched: Watched) -> None:
    queries = [query for query in panel_queries() if query.where not in ONLY_WITH_TLS]
    assert len(queries) > 90

    assert_numbers(watched, {f"{query.where}: {query.expr}": query.asked for query in queries})


def test_every_recording_rule_gives_numbers_and_no_rule_fails(watched: Watched) -> None:
    asked = {}
    for rule in rules("recording"):
        labels = ",".join(f'{name}="{value}"' for name, value in rule.get("labels", {}).items())
        asked[f"{rule['record']}{{{labels}}}"] = f"{rule['record']}{{{labels}}}"

    assert_numbers(watched, asked)
    assert [(rule["name"], rule["lastError"]) for rule in watched.rules() if rule["health"] != "ok"] == []
    assert len(watched.rules()) == len(rules("recording")) + len(rules("alerts"))


def test_only_what_ails_the_system_is_an_alert(watched: Watched) -> None:
    until(lambda: "ProofDoesNotHold" in watched.alerts(), 30, "the proof's alert")
    until(lambda: "DeadLettersWait" in watched.alerts(), 30, "the dead letter's alert")

    # Money was given back behind the shop's back, and the bank was away. The tester's machine may be full or busy.
    assert watched.alerts()["ProofDoesNotHold"]["labels"]["check"] == "orders"
    expected = {"ProofDoesNotHold", "DeadLettersWait", "DiskNearlyFull", "DiskFills", "EventLoopBlocked"}
    expected |= {f"{slo}BudgetBurns{pace}" for slo in ("Checkout", "BankLatency") for pace in ("Fast", "Slowly")}
    assert set(watched.alerts()) <= expected


def told(system: Watched, name: str) -> list[Json]:
    """Give what the operator was told of an alert."""
    found = [alert for message in system.hook.messages for alert in message["alerts"]]
    return [alert for alert in found if alert["labels"]["alertname"] == name]


def test_the_death_of_a_role_reaches_the_operator_once_and_silences_what_it_explains(watched: Watched) -> None:
    watched.hook.messages.clear()
    # It hangs: a process that died would be started again at once.
    watched.signal("relay", signal.SIGSTOP)
    try:
        until(lambda: {"RoleDown", "NoRelayLeads"} <= set(watched.alerts()), 60, "the alerts")
        until(lambda: watched.alerts()["NoRelayLeads"]["status"]["state"] == "suppressed", 30, "the inhibition")
        until(lambda: told(watched, "RoleDown"), 30, "a message")
    finally:
        watched.signal("relay", signal.SIGCONT)

    down = told(watched, "RoleDown")[0]
    assert down["labels"]["role"] == "relay"
    assert down["labels"]["severity"] == "critical"
    assert down["annotations"]["runbook_url"] == "docs/runbooks.md#a-role-is-down"
    assert down["annotations"]["summary"] == "The relay does not answer"
    until(lambda: not {"RoleDown", "NoRelayLeads"} & set(watched.alerts()), 60, "the end of the alerts")
    until(lambda: told(watched, "RoleDown")[-1]["status"] == "resolved", 30, "the good news")
