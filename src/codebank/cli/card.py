"""The operator's hand on cards."""

from __future__ import annotations

import asyncio

import click

from codebank.cli.words import answering, data, found_settings, main


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

    data(issue_card(found_settings(), account, holder, limit_minor))


@card.command("list")
@answering
def list_cards() -> None:
    """List the newest cards, masked."""
    from codebank.operate.cards import list_cards as listed

    data(asyncio.run(listed(found_settings())))


@card.command()
@click.argument("card_id")
@click.option("--reason", default="blocked", type=click.Choice(["blocked", "lost", "stolen"]), show_default=True)
@answering
def block(card_id: str, reason: str) -> None:
    """Refuse every further charge of a card."""
    from codebank.operate.cards import block_card

    data(block_card(found_settings(), card_id, reason))


@card.command()
@click.argument("card_id")
@answering
def unblock(card_id: str) -> None:
    """Let a blocked card pay again."""
    from codebank.operate.cards import unblock_card

    data(unblock_card(found_settings(), card_id))
