"""The statement's database."""

from __future__ import annotations

import asyncio

import click

from codebank.cli.words import answering, found_settings, main, talk


@main.group("statement")
def statement_group() -> None:
    """The statement's database."""


@statement_group.command("rebuild")
@answering
def rebuild_statement() -> None:
    """Make the statement anew from the log, partition by partition, while everything runs."""
    from codebank.operate.dead_letters import rebuild_statement as rebuilt

    def tell(partition: int, partitions: int, records: int) -> None:
        talk(f"partition {partition + 1} of {partitions}: {records} records")

    click.echo(f"rebuilt from {asyncio.run(rebuilt(found_settings(), tell))} records")
