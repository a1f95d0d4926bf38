"""The code of the release before is there, is what runs, and is missed by name where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.release import code_before, run_code, unpack

NOWHERE = "0" * 40


def test_its_own_code_runs_and_none_of_this_release() -> None:
    where = run_code(code_before(), "import codebank; print(codebank.__file__)")

    assert Path(where.strip()).is_relative_to(code_before())


def test_a_checkout_without_its_history_skips_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TEST_RELEASE", raising=False)

    with pytest.raises(pytest.skip.Exception, match="0000000"):
        unpack(NOWHERE, tmp_path / "code")


def test_where_it_is_required_a_missing_history_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_RELEASE", "required")

    with pytest.raises(pytest.fail.Exception, match="unshallow"):
        unpack(NOWHERE, tmp_path / "code")
