"""What every command has in common: how it talks, how it answers, and which settings it finds."""

from __future__ import annotations

import codecs
import contextlib
import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from codebank.cli.outlet import open_outlets
from codebank.errors import Code, CodebankError
from codebank.settings import Settings

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error into its sentence and its exit code."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except CodebankError as error:
            talk(f"codebank: {error}")
            raise SystemExit(2 if error.code is Code.INVALID else 1) from None
        except OSError as error:
            failure = _of_the_machine(error)
            talk(f"codebank: {failure}")
            raise SystemExit(2 if failure.code is Code.INVALID else 1) from error

    return call


def _of_the_machine(error: OSError) -> CodebankError:
    """Say what the machine refuses. What may not be read or written is no answer: 2, never the 1 of a "no"."""
    reason = (error.strerror or str(error)).lower()
    if error.filename is None:
        return CodebankError(Code.INVALID if error.errno in _NO_ROOM else Code.UNAVAILABLE, reason)
    hint = "make room there" if error.errno in _NO_ROOM else "set CODEBANK_STATE to a folder that you may write"
    return CodebankError(Code.INVALID, f"{os.fsdecode(error.filename)}: {reason}", hint=hint)


def talk(text: str) -> None:
    """Say something to the person; data goes elsewhere. What cannot be said stops no work."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def data(document: Any) -> None:
    """Print a document for a program."""
    # An output that does not know every letter gets the escapes of JSON.
    spelled = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name != "utf-8"
    click.echo(json.dumps(document, ensure_ascii=spelled, indent=2, default=str))


def found_settings() -> Settings:
    """Give the settings of the system that runs on this machine, or of the environment."""
    from codebank.machine.attach import find_settings

    return find_settings(os.environ)


class _Codebank(click.Group):
    """The command itself; whatever it says goes by way of outlets, its help too."""

    def main(self, *arguments: Any, **named: Any) -> Any:
        open_outlets()
        return super().main(*arguments, **named)


@click.group(cls=_Codebank, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="codebank")
def main() -> None:
    """Card payments with a proof: checkout, bank, ledger, events and statement in one system."""
