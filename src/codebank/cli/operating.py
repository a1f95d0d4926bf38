"""Commands of an operator: databases, topics, connectors, what was put aside, cards."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from codebank.cli.words import answering, data, main, running_settings, talk
from codebank.errors import Code, CodebankError


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the topics as JSON.")
@answering
def topics(as_json: bool) -> None:
    """Make Kafka's topics, or check them: corrected where that is safe, refused with the difference where not."""
    from codebank.eventlog.kafka.topics import prepare_topics

    settings = running_settings()
    if not settings.kafka:
        raise CodebankError(Code.INVALID, "CODEBANK_KAFKA names no brokers", hint="the embedded log has its topics")
    reports = asyncio.run(prepare_topics(settings))
    if as_json:
        data([asdict(report) for report in reports])
        return
    for report in reports:
        click.echo(f"{report.topic}: {report.partitions} partitions, {report.replication} replicas: {report.state}")
        for change in report.changes:
            click.echo(f"    {change}")


@main.group()
def connect() -> None:
    """The connectors of Kafka Connect."""


@connect.command()
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
@answering
def apply(as_json: bool) -> None:
    """Bring the index template and the connectors to what their files say. Safe to repeat."""
    from codebank.search.connect import apply_connectors

    applied = asyncio.run(apply_connectors(running_settings(), talk))
    if as_json:
        data([asdict(one) for one in applied])
        return
    for one in applied:
        click.echo(f"{one.name}: {one.did}, {one.tasks} tasks run")


@main.command()
@answering
def migrate() -> None:
    """Bring every database up to date. Safe to repeat."""
    from codebank.roles import migrate_all

    data(asyncio.run(migrate_all(running_settings())))


@main.command()
@answering
def seed() -> None:
    """Put the demo's data into every database. Safe to repeat."""
    from codebank.roles import seed_all

    asyncio.run(seed_all(running_settings()))


@connect.command("rewind")
@click.option("--partition", type=click.IntRange(0), help="One partition; all if left out.")
@click.option("--offset", default=0, show_default=True, type=click.IntRange(0), help="Where to read again from.")
@answering
def rewind_connector(partition: int | None, offset: int) -> None:
    """Let the connector read the log again. What the index has already, or newer, is not changed by that."""
    from codebank.eventlog.log import PARTITIONS
    from codebank.operate.dead_letters import rewind_search

    partitions = range(PARTITIONS) if partition is None else [partition]
    asyncio.run(rewind_search(running_settings(), dict.fromkeys(partitions, offset)))
    talk(f"{len(partitions)} partitions are read again from {offset}")


@main.group("dead-letter")
def dead_letter() -> None:
    """Records that nobody could read."""


@dead_letter.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, with what they hold.")
@answering
def list_letters(as_json: bool) -> None:
    """List the records put aside, the newest first: by the statement, and by Kafka Connect."""
    from codebank.operate.dead_letters import listed_letters

    letters = asyncio.run(listed_letters(running_settings()))
    if as_json:
        data(letters)
        return
    for letter in letters:
        state = "applied since" if letter["replayed_at"] else letter["reason"]
        click.echo(f"{letter['at']}  {letter['origin']:<32} {letter['reader']:<10} {state}")
    talk(f"{len(letters)} records were put aside")


@dead_letter.command()
@click.argument("origin", nargs=-1)
@click.option("--all", "whole", is_flag=True, help="All that were never applied.")
@answering
def replay(origin: tuple[str, ...], whole: bool) -> None:
    """Read records again that were put aside, by their ORIGIN (topic/partition/offset); exit 0 only if all apply."""
    from codebank.operate.dead_letters import replay_letters

    if bool(origin) == whole:
        raise CodebankError(Code.INVALID, "name the records by their origin, or say --all")
    done = asyncio.run(replay_letters(running_settings(), origin))
    for one in done:
        click.echo(f"{one.origin}: {one.outcome}")
    raise SystemExit(0 if all(one.is_applied for one in done) else 1)


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

    click.echo(f"rebuilt from {asyncio.run(rebuilt(running_settings(), tell))} records")


@main.group()
def card() -> None:
    """The operator's hand."""


@card.command()
@click.option("--account", default="", help="An account's id; a new account if left out.")
@click.option("--holder", default="", help="Who holds the new account.")
@click.option("--limit-minor", default=100_000, show_default=True, help="The new account's limit, in centavos.")
@answering
def issue(account: str, holder: str, limit_minor: int) -> None:
    """Issue a card; its number and CVV are printed this once."""
    from codebank.operate.cards import issue_card

    data(issue_card(running_settings(), account, holder, limit_minor))


@card.command("list")
@answering
def list_cards() -> None:
    """List the newest cards, masked."""
    from codebank.operate.cards import list_cards as listed

    data(asyncio.run(listed(running_settings())))


@card.command()
@click.argument("card_id")
@click.option("--reason", default="blocked", type=click.Choice(["blocked", "lost", "stolen"]), show_default=True)
@answering
def block(card_id: str, reason: str) -> None:
    """Refuse every further charge of a card."""
    from codebank.operate.cards import block_card

    data(block_card(running_settings(), card_id, reason))


@card.command()
@click.argument("card_id")
@answering
def unblock(card_id: str) -> None:
    """Let a blocked card pay again."""
    from codebank.operate.cards import unblock_card

    data(unblock_card(running_settings(), card_id))
