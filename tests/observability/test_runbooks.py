"""The run-books: each says what it means, what to look at and what to do, with commands that exist."""

from __future__ import annotations

import re
from itertools import takewhile

import click
import pytest

from codebank.cli import main
from codebank.settings import PREFIX, Settings
from tests.observability.files import ROOT, alerts, runbooks

PARTS = ("**What it means.**", "**What to look at.**", "**What to do.**")
#: What a machine has, or what an operator of these servers has.
PROGRAMS = {"codebank", "curl", "psql", "openssl", "df", "du", "journalctl", "py-spy"}
each_runbook = pytest.mark.parametrize("anchor", runbooks())


def test_every_runbook_belongs_to_an_alert() -> None:
    named = {alert["annotations"]["runbook_url"].partition("#")[2] for alert in alerts().values()}

    assert set(runbooks()) == named


@each_runbook
def test_a_runbook_has_its_three_parts_in_order_and_something_to_type(anchor: str) -> None:
    places = [runbooks()[anchor].find(part) for part in PARTS]

    assert -1 not in places
    assert places == sorted(places)
    assert "```" in runbooks()[anchor]


def commands(text: str) -> list[str]:
    blocks = text.split("```")[1::2]
    typed = [line for block in blocks for line in block.splitlines() if line.strip()]
    return typed + re.findall(r"`(codebank [^`]+)`", text)


@each_runbook
def test_the_commands_of_a_runbook_exist(anchor: str) -> None:
    for command in commands(runbooks()[anchor]):
        words = re.sub(rf"^{PREFIX}\w+=\S+ ", "", command).split()
        assert words[0] in PROGRAMS, command
        if words[0] == "codebank":
            assert_runs(words[1:])


def assert_runs(words: list[str]) -> None:
    """Follow the words to a command, and have it read the rest as click would."""
    command: click.Command = main
    context = click.Context(command, info_name="codebank")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"codebank has no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.make_parser(context).parse_args(list(words))
    assert not command.params or command.make_context(command.name, list(words), parent=context.parent)


@each_runbook
def test_the_settings_and_links_of_a_runbook_exist(anchor: str) -> None:
    text = runbooks()[anchor]

    for name in re.findall(rf"{PREFIX}([A-Z_]+)", text):
        assert hasattr(Settings(), name.lower()), name
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= set(runbooks())
    for page in re.findall(r"`(docs/[\w./]+)`", text):
        assert (ROOT / page).exists(), page


def test_the_runbooks_say_first_what_is_true_of_all() -> None:
    lines = takewhile(lambda line: not line.startswith("## "), (ROOT / "docs" / "runbooks.md").read_text().splitlines())

    assert "codebank proof" in "\n".join(lines)
