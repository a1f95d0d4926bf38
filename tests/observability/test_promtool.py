"""What the programs themselves say of the files, and the queries that only a system with TLS has data for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.observability.files import FOLDER, RULES, panel_queries

pytestmark = [pytest.mark.observability, pytest.mark.timeout(180), pytest.mark.xdist_group("observability")]
#: Panels whose series only roles with TLS have; they are asked of series that are written down here.
ONLY_WITH_TLS = {"proof: Days of certificates"}
CASES = sorted((RULES / "tests").glob("*.yaml"))


def run(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_its_rules(programs: dict[str, str]) -> None:
    said = run(programs["promtool"], "check", "config", FOLDER / "prometheus" / "prometheus.yaml")

    assert "2 rule files found" in said


def test_alertmanager_takes_its_configuration(programs: dict[str, str]) -> None:
    run(programs["amtool"], "check-config", FOLDER / "alertmanager" / "alertmanager.yaml")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_never_else(programs: dict[str, str], path: Path) -> None:
    run(programs["promtool"], "test", "rules", path)


def test_what_only_a_system_with_tls_has_is_asked_of_written_series(programs: dict[str, str], tmp_path: Path) -> None:
    (query,) = [query for query in panel_queries() if query.where in ONLY_WITH_TLS]
    series = {
        "series": 'codebank_certificate_expiry_timestamp_seconds{role="bank",certificate="tls"}',
        "values": "5184000x2",
    }
    expected = {"labels": '{role="bank",certificate="tls"}', "value": 60}
    case = {
        "interval": "1m",
        "input_series": [series],
        "promql_expr_test": [{"expr": query.asked, "eval_time": "0m", "exp_samples": [expected]}],
    }
    path = tmp_path / "tls.yaml"
    path.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))

    run(programs["promtool"], "test", "rules", path)
