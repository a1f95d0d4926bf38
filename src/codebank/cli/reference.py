"""What docs/ is made from."""

from __future__ import annotations

import click

from codebank.cli.words import answering, main


@main.command()
@click.option("--events", is_flag=True, help="Print docs/asyncapi.json instead: topics, events, headers.")
@answering
def reference(events: bool) -> None:
    """Print docs/reference.md: every setting, metric, port, role, error code and test card."""
    from codebank.lab.asyncapi import asyncapi_text
    from codebank.lab.reference import reference_text
    from codebank.roles import METRICS

    click.echo(asyncapi_text() if events else reference_text(METRICS), nl=False)
