"""Commands that run the whole system on this machine, and the servers beside it."""

from __future__ import annotations

import asyncio
import os

import click

from codebank.cli.words import answering, main, talk
from codebank.settings import Settings


@main.command()
@click.option("--fresh", is_flag=True, help="Forget everything of an earlier run first.")
@click.option(
    "--log",
    "log_kind",
    type=click.Choice(["embedded", "kafka"]),
    help="Which event log: the embedded one, or the Kafka that `make kafka` runs. CODEBANK_KAFKA decides if left out.",
)
@answering
def up(fresh: bool, log_kind: str | None) -> None:
    """Run everything on this machine; nothing to install. Ctrl-C stops in order."""
    from codebank.machine.up import choose_log, run_up

    settings = choose_log(Settings.load(os.environ), log_kind)
    asyncio.run(run_up(settings, os.environ, fresh=fresh, say=talk, show=_show_addresses))


@main.command()
@answering
def servers() -> None:
    """Run real Kafka, Kafka Connect and Elasticsearch on this machine; needs Java and Maven. Ctrl-C stops them."""
    from codebank.machine.servers.app import run_servers

    asyncio.run(run_servers(Settings.load(os.environ), talk))


def _show_addresses(settings: Settings) -> None:
    from codebank.bank.test_cards import TEST_CARDS
    from codebank.machine.up import addresses
    from codebank.operate.demo import DEMO_EMAIL, DEMO_PASSWORD

    lines = ["", "Codebank is running:"]
    lines += [f"  {name:<13} {address}" for name, address in addresses(settings).items()]
    if settings.demo:
        card = TEST_CARDS[0]
        lines += [
            f"  sign in       {DEMO_EMAIL} / {DEMO_PASSWORD}",
            f"  test card     {card.number}  {card.expiry_month:02d}/{card.expiry_year % 100:02d}  CVV {card.cvv}",
        ]
    lines += [f"  state         {settings.state}", "", "Ctrl-C stops it."]
    click.echo("\n".join(lines))
