"""A change that would break a client of the bank or of the REST is found before it is merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import contracts
from tests.kubernetes.tools import is_built

pytestmark = pytest.mark.skipif(
    not (is_built("buf") and is_built("oasdiff")), reason="buf and oasdiff not built here: `make check-contracts` does"
)


def changed(folder: Path, before: str, after: str) -> Path:
    """Write our protocol with one change."""
    text = (contracts.ROOT / "proto" / contracts.PROTO).read_text()
    assert before in text
    target = folder / contracts.PROTO
    target.parent.mkdir(parents=True)
    target.write_text(text.replace(before, after))
    return folder


def test_our_protocol_is_well_written() -> None:
    assert contracts.lint(contracts.ROOT / "proto") == ""


def test_a_protocol_that_grows_breaks_nobody(tmp_path: Path) -> None:
    grown = changed(tmp_path, "service Bank {", "message Added {\n  int32 number = 1;\n}\n\nservice Bank {")

    assert contracts.compare_proto(grown, contracts.ROOT / "proto") == ""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("  int64 amount_minor = 1;", "  int32 amount_minor = 1;", "changed type"),
        ("rpc Cancel(", "rpc Revoke(", '"Cancel" on service "Bank" was deleted'),
    ],
)
def test_a_protocol_that_breaks_a_client_is_found(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert said in contracts.compare_proto(changed(tmp_path, before, after), contracts.ROOT / "proto")


@pytest.mark.parametrize("api", contracts.APIS)
def test_a_path_that_is_gone_is_found_and_one_that_came_is_not(tmp_path: Path, api: str) -> None:
    ours = contracts.ROOT / api
    described = json.loads(ours.read_text())
    path = next(iter(described["paths"]))
    described["paths"].pop(path)
    less = tmp_path / "less.json"
    less.write_text(json.dumps(described))

    assert path in contracts.compare_api(less, ours)
    assert contracts.compare_api(ours, less) == ""
