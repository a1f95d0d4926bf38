"""Buy one thing from the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from codebank.cli.words import answering, data, found_settings, main
from codebank.errors import Code, CodebankError


@main.command()
@click.option("--card", "number", default="", help="A test card's number; the approved one if left out.")
@click.option("--product", default="cafe-especial", show_default=True)
@click.option("--quantity", default=1, show_default=True, type=click.IntRange(1, 99))
@click.option("--json", "as_json", is_flag=True, help="Print the purchase as JSON.")
@answering
def pay(number: str, product: str, quantity: int, as_json: bool) -> None:
    """Buy one thing, and print each stage of the payment with its time."""
    from codebank.bank.test_cards import BY_NUMBER, TEST_CARDS
    from codebank.lab.pay import buy

    card = BY_NUMBER.get(number.replace(" ", "")) if number else TEST_CARDS[0]
    if card is None:
        raise CodebankError(Code.INVALID, "not one of the published test cards", hint="docs/reference.md lists them")

    def tell(stage: Any) -> None:
        if not as_json:
            click.echo(f"{stage.after_milliseconds:>6} ms  {stage.name:<10} {stage.detail}")

    purchase = buy(found_settings(), card, product, quantity, tell)
    if as_json:
        data({"order": purchase.order, "stages": [asdict(stage) for stage in purchase.stages]})
    raise SystemExit(0 if purchase.is_paid else 1)
