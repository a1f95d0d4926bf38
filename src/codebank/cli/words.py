"""What every command has in common: how it talks, how it answers, and which settings it finds."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any

import click

from codebank.errors import Code, CodebankError
from codebank.settings import Settings


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error into its sentence and its exit code."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except CodebankError as error:
            click.echo(f"codebank: {error}", err=True)
            raise SystemExit(2 if error.code is Code.INVALID else 1) from None

    return call


def talk(text: str) -> None:
    """Say something to the person; data goes elsewhere."""
    click.echo(text, err=True)


def data(document: Any) -> None:
    """Print a document for a program."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def found_settings() -> Settings:
    """Give the settings of the system that runs on this machine, or of the environment."""
    from codebank.machine.attach import find_settings

    return find_settings(os.environ)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="codebank")
def main() -> None:
    """Card payments with a proof: checkout, bank, ledger, events and statement in one system."""
