"""Words to calls. Data goes to stdout, talk to stderr; exit codes: 0 fine, 1 the answer is no, 2 wrong use."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from codebank.errors import Code, CodebankError
from codebank.settings import Settings


def _answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an error into its sentence and its exit code."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except CodebankError as error:
            click.echo(f"codebank: {error}", err=True)
            raise SystemExit(2 if error.code is Code.INVALID else 1) from None

    return call


def _talk(text: str) -> None:
    click.echo(text, err=True)


def _data(document: Any) -> None:
    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=str))


def _running() -> Settings:
    from codebank.up import load_running

    return load_running(os.environ)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="codebank")
def main() -> None:
    """Card payments with a proof: checkout, bank, ledger, events and statement in one system."""


@main.command()
@click.option("--fresh", is_flag=True, help="Forget everything of an earlier run first.")
@_answering
def up(fresh: bool) -> None:
    """Run everything on this machine; nothing to install. Ctrl-C stops in order."""
    from codebank.up import run_up

    asyncio.run(run_up(Settings.load(os.environ), os.environ, fresh=fresh, say=_talk, show=_show_addresses))


def _show_addresses(settings: Settings) -> None:
    from codebank.test_cards import DEMO_EMAIL, DEMO_PASSWORD, TEST_CARDS
    from codebank.up import addresses

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


@main.command()
@click.argument("role")
@_answering
def run(role: str) -> None:
    """Run one role; settings from the environment."""
    from codebank.runtime.process import run_role
    from codebank.services import ROLES

    if role not in ROLES:
        raise CodebankError(Code.INVALID, f"no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    settings = Settings.load(os.environ)
    chosen = ROLES[role]
    run_role(
        role,
        functools.partial(chosen.run, settings),
        host=settings.host,
        health_port=getattr(settings, chosen.health_port),
        log_level=settings.log_level,
    )


@main.command()
@click.option("--card", "number", default="", help="A test card's number; the approved one if left out.")
@click.option("--product", default="cafe-especial", show_default=True)
@click.option("--quantity", default=1, show_default=True, type=click.IntRange(1, 99))
@click.option("--json", "as_json", is_flag=True, help="Print the purchase as JSON.")
@_answering
def pay(number: str, product: str, quantity: int, as_json: bool) -> None:
    """Buy one thing, and print each stage of the payment with its time."""
    from codebank.lab.pay import buy
    from codebank.test_cards import BY_NUMBER, TEST_CARDS

    card = BY_NUMBER.get(number.replace(" ", "")) if number else TEST_CARDS[0]
    if card is None:
        raise CodebankError(Code.INVALID, "not one of the published test cards", hint="docs/reference.md lists them")

    def tell(stage: Any) -> None:
        if not as_json:
            click.echo(f"{stage.after_milliseconds:>6} ms  {stage.name:<10} {stage.detail}")

    purchase = buy(_running(), card, product, quantity, tell)
    if as_json:
        _data({"order": purchase.order, "stages": [asdict(stage) for stage in purchase.stages]})
    raise SystemExit(0 if purchase.is_paid else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the proof as JSON.")
@_answering
def proof(as_json: bool) -> None:
    """Compare orders, ledger, log and statement; exit 0 only if all agree."""
    from codebank.audit.proof import prove_once
    from codebank.audit.web import proof_document

    found = asyncio.run(prove_once(_running()))
    if as_json:
        _data(proof_document(found))
    else:
        for check in found.checks:
            click.echo(f"{'✓' if check.holds else '✕'} {check.name:<10} {check.compared:>8}  {check.promise}")
            for difference in check.differences[:5]:
                click.echo(f"    {difference}")
            if len(check.differences) > 5:
                click.echo(f"    … and {len(check.differences) - 5} more")
        click.echo(f"{'all agree' if found.agrees else 'they do not agree'}; {found.lag_events} events on their way")
    raise SystemExit(0 if found.agrees else 1)


@main.group()
def bench() -> None:
    """Measure a load on this machine."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=2, show_default=True, type=click.IntRange(1, 60), help="Time of one turn.")
@_answering
def authorize(as_json: bool, rounds: int, seconds: int) -> None:
    """Measure Authorize beside an echo of the same server and the same rows by plain SQL."""
    from codebank.lab.bench import bench_authorize, table_of

    result = bench_authorize(rounds, seconds, _talk)
    if as_json:
        _data(result.document())
    else:
        click.echo(table_of(result))
    raise SystemExit(0 if result.proof_agrees else 1)


@main.command()
@_answering
def migrate() -> None:
    """Bring every database up to date. Safe to repeat."""
    from codebank.services import migrate_all

    _data(asyncio.run(migrate_all(_running())))


@main.command()
@_answering
def seed() -> None:
    """Put the demo's data into every database. Safe to repeat."""
    from codebank.services import seed_all

    asyncio.run(seed_all(_running()))


@main.command()
@_answering
def reference() -> None:
    """Print docs/reference.md: every setting, metric, port, role, error code and test card."""
    from codebank.lab.reference import reference_text

    click.echo(reference_text(), nl=False)


@main.group()
def card() -> None:
    """The operator's hand."""


@card.command()
@click.option("--account", default="", help="An account's id; a new account if left out.")
@click.option("--holder", default="", help="Who holds the new account.")
@click.option("--limit-minor", default=100_000, show_default=True, help="The new account's limit, in centavos.")
@_answering
def issue(account: str, holder: str, limit_minor: int) -> None:
    """Issue a card; its number and CVV are printed this once."""
    from codebank.lab.operator import issue_card

    _data(issue_card(_running(), account, holder, limit_minor))


@card.command("list")
@_answering
def list_cards() -> None:
    """List the newest cards, masked."""
    from codebank.lab.operator import list_cards as listed

    _data(asyncio.run(listed(_running())))


@card.command()
@click.argument("card_id")
@click.option("--reason", default="blocked", type=click.Choice(["blocked", "lost", "stolen"]), show_default=True)
@_answering
def block(card_id: str, reason: str) -> None:
    """Refuse every further charge of a card."""
    from codebank.lab.operator import block_card

    _data(block_card(_running(), card_id, reason))


@card.command()
@click.argument("card_id")
@_answering
def unblock(card_id: str) -> None:
    """Let a blocked card pay again."""
    from codebank.lab.operator import unblock_card

    _data(unblock_card(_running(), card_id))
