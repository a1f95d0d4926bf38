"""Records that nobody could read."""

from __future__ import annotations

import asyncio

import click

from codebank.cli.words import answering, data, found_settings, main, talk
from codebank.errors import Code, CodebankError


@main.group("dead-letter")
def dead_letter() -> None:
    """Records that nobody could read."""


@dead_letter.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, with what they hold.")
@answering
def list_dead_letters(as_json: bool) -> None:
    """List the records put aside, the newest first: by the statement, and by Kafka Connect."""
    from codebank.operate.dead_letters import listed_dead_letters

    found = asyncio.run(listed_dead_letters(found_settings()))
    if as_json:
        data(found)
        return
    for one in found:
        state = "applied since" if one["replayed_at"] else one["reason"]
        click.echo(f"{one['at']}  {one['origin']:<32} {one['reader']:<10} {state}")
    talk(f"{len(found)} records were put aside")


@dead_letter.command()
@click.argument("origin", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="All that were never applied.")
@answering
def replay(origin: tuple[str, ...], whole: bool) -> None:
    """Read records again that were put aside, by their ORIGIN (topic/partition/offset); exit 0 only if all apply."""
    from codebank.operate.dead_letters import replay_dead_letters

    if bool(origin) == whole:
        raise CodebankError(Code.INVALID, "name the records by their origin, or say --all")
    done = asyncio.run(replay_dead_letters(found_settings(), origin))
    for one in done:
        click.echo(f"{one.origin}: {one.outcome}")
    raise SystemExit(0 if all(one.is_applied for one in done) else 1)
