"""Rows that were drawn before are given again, and only where nothing that decides how they look is another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codebank.statement import drawn
from codebank.statement.drawn import DrawnRows
from codebank.statement.line import Line, line_of
from tests.statement.desk import Story


def lines(count: int) -> list[Line]:
    story = Story().opened()
    for amount in range(1, count + 1):
        story.paid(amount)
    return [line for line in map(line_of, story.events) if line is not None]


class Macro:
    """Draws, and counts what it drew."""

    def __init__(self) -> None:
        self.drew: list[Line] = []

    def __call__(self, line: Line) -> str:
        self.drew.append(line)
        return f"{line.merchant_name}: {line.status} {line.amount_minor}"


def test_a_line_is_drawn_once_for_all_pushes_that_show_it_alike() -> None:
    rows, macro, (line,) = DrawnRows(), Macro(), lines(1)

    shown = [rows.drawing("pt", "BRL", after)(macro, line) for after in (None, 2, 3, 4)]

    assert shown == ["Padaria São João: approved 1"] * 4
    assert macro.drew == [line]


def test_a_line_is_drawn_anew_where_it_changed_or_is_shown_otherwise() -> None:
    rows, macro, (line,) = DrawnRows(), Macro(), lines(1)
    rows.drawing("pt", "BRL", None)(macro, line)

    rows.drawing("en", "BRL", None)(macro, line)
    rows.drawing("pt", "USD", None)(macro, line)
    rows.drawing("pt", "BRL", line.sequence - 1)(macro, line)
    changed = rows.drawing("pt", "BRL", None)(macro, replace(line, status="refunded"))

    assert len(macro.drew) == 5
    assert changed == "Padaria São João: refunded 1"


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "_KEPT_MAX", 3)
    rows, macro = DrawnRows(), Macro()

    for line in lines(8):
        rows.drawing("pt", "BRL", None)(macro, line)

    assert len(rows._kept) <= 3
