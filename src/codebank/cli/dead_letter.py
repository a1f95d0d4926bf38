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
        dismissed = f"dismissed: {one['dismissed_because']}" if one["dismissed_at"] else ""
        state = "applied since" if one["replayed_at"] else dismissed or one["reason"]
        click.echo(f"{one['at']}  {one['origin']:<32} {one['reader']:<10} {state}")
    applied = sum(one["replayed_at"] is not None for one in found)
    dismissed_count = sum(one["dismissed_at"] is not None and one["replayed_at"] is None for one in found)
    waiting = len(found) - applied - dismissed_count
    talk(f"{len(found)} records were put aside: {waiting} wait, {applied} applied since, {dismissed_count} dismissed")


@dead_letter.command()
@click.argument("origin", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="All that were neither applied nor dismissed.")
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


@dead_letter.command()
@click.argument("origin", nargs=-1, required=True)
@click.option("--because", required=True, help="Why nobody needs to read them; kept with them.")
@answering
def dismiss(origin: tuple[str, ...], because: str) -> None:
    """Decide that records will never be read, by their ORIGIN (topic/partition/offset). They are kept and listed."""
    from codebank.operate.dead_letters import dismiss_dead_letters

    count = asyncio.run(dismiss_dead_letters(found_settings(), origin, because))
    talk(f"{count} dismissed")
