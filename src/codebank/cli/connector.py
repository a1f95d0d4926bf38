"""The connectors of Kafka Connect."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from codebank.cli.words import answering, data, found_settings, main, talk


@main.group()
def connect() -> None:
    """The connectors of Kafka Connect."""


@connect.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@answering
def apply(as_json: bool) -> None:
    """Bring the index template and the connectors to what their files say. Safe to repeat."""
    from codebank.search.connect import apply_connectors

    applied = asyncio.run(apply_connectors(found_settings(), talk))
    if as_json:
        data([asdict(one) for one in applied])
        return
    for one in applied:
        click.echo(f"{one.name}: {one.did}, {one.tasks} tasks run")


@connect.command("rewind")
@click.option("--partition", type=click.IntRange(0), help="One partition; all if left out.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(0), help="Where to read again from.")
@answering
def rewind_connector(partition: int | None, offset: int) -> None:
    """Let the connector read the log again. What the index has already, or newer, is not changed by that."""
    from codebank.eventlog.log import PARTITIONS
    from codebank.operate.dead_letters import rewind_search

    partitions = range(PARTITIONS) if partition is None else [partition]
    asyncio.run(rewind_search(found_settings(), dict.fromkeys(partitions, offset)))
    talk(f"{len(partitions)} partitions are read again from {offset}")
