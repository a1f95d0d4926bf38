"""Commands that run the system, pay, prove and measure."""

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import click

from codebank.cli.words import answering, data, main, running_settings, talk
from codebank.errors import Code, CodebankError
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
    from codebank.machine.up import addresses
    from codebank.test_cards import DEMO_EMAIL, DEMO_PASSWORD, TEST_CARDS

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
@answering
def run(role: str) -> None:
    """Run one role; settings from the environment."""
    from codebank.roles import ROLES
    from codebank.runtime.grpc.tls import watch_certificates
    from codebank.runtime.process import run_role
    from codebank.runtime.watch.telemetry import Telemetry
    from codebank.runtime.watch.tracer import open_tracer

    if role not in ROLES:
        raise CodebankError(Code.INVALID, f"no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    settings = Settings.load(os.environ)
    chosen = ROLES[role]
    telemetry = Telemetry(role)
    watch_certificates(telemetry, settings)
    telemetry.tracer = open_tracer(role, settings.otlp, settings.trace_ratio, version("codebank"))
    run_role(
        role,
        functools.partial(chosen.run, settings),
        host=settings.host,
        health_port=getattr(settings, chosen.health_port),
        log_level=settings.log_level,
        telemetry=telemetry,
    )


@main.command()
@click.option("--card", "number", default="", help="A test card's number; the approved one if left out.")
@click.option("--product", default="cafe-especial", show_default=True)
@click.option("--quantity", default=1, show_default=True, type=click.IntRange(1, 99))
@click.option("--json", "as_json", is_flag=True, help="Print the purchase as JSON.")
@answering
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

    purchase = buy(running_settings(), card, product, quantity, tell)
    if as_json:
        data({"order": purchase.order, "stages": [asdict(stage) for stage in purchase.stages]})
    raise SystemExit(0 if purchase.is_paid else 1)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the proof as JSON.")
@answering
def proof(as_json: bool) -> None:
    """Compare orders, ledger, log, statement and search index; exit 0 only if all agree."""
    from codebank.audit.control.web import proof_document
    from codebank.audit.proof.prove import prove_once

    found = asyncio.run(prove_once(running_settings()))
    if as_json:
        data(proof_document(found))
    else:
        for check in found.checks:
            click.echo(f"{'✓' if check.holds else '✕'} {check.name:<10} {check.compared:>8}  {check.promise}")
            for difference in check.differences[:5]:
                click.echo(f"    {difference}")
            if len(check.differences) > 5:
                click.echo(f"    … and {len(check.differences) - 5} more")
        verdict = "all agree" if found.agrees else "they do not agree"
        click.echo(f"{verdict}: {', '.join(found.parties)}; {found.lag_events} events on their way")
    raise SystemExit(0 if found.agrees else 1)


@main.group()
def bench() -> None:
    """Measure a load on this machine."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=2, show_default=True, type=click.IntRange(1, 60), help="Time of one turn.")
@answering
def authorize(as_json: bool, rounds: int, seconds: int) -> None:
    """Measure Authorize beside an echo of the same server and the same rows by plain SQL."""
    from codebank.lab.bench import bench_authorize, table_of

    result = bench_authorize(rounds, seconds, talk)
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))
    raise SystemExit(0 if result.proof_agrees else 1)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=3, show_default=True, type=click.IntRange(1, 60), help="Time of one turn.")
@click.option("--in-flight", default=32, show_default=True, type=click.IntRange(1, 512))
@answering
def metrics(as_json: bool, rounds: int, seconds: int, in_flight: int) -> None:
    """Measure what counting costs the bank, beside the same bank that counts nothing."""
    from codebank.lab.overhead import bench_metrics, table_of

    result = bench_metrics(rounds, seconds, in_flight, talk)
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rate", default=100, show_default=True, type=click.IntRange(1, 5000), help="Payments per second.")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 600))
@answering
def flow(as_json: bool, rate: int, seconds: int) -> None:
    """Measure, on the system that runs, how soon after the decision a payment is on the log, statement and index."""
    from codebank.lab.delay import bench_flow, table_of

    result = asyncio.run(bench_flow(running_settings(), rate, seconds, talk))
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))
    raise SystemExit(0 if result.failed == 0 else 1)


@main.command()
@click.option("--events", is_flag=True, help="Print docs/asyncapi.json instead: topics, events, headers.")
@answering
def reference(events: bool) -> None:
    """Print docs/reference.md: every setting, metric, port, role, error code and test card."""
    from codebank.lab.asyncapi import asyncapi_text
    from codebank.lab.reference import reference_text

    click.echo(asyncapi_text() if events else reference_text(), nl=False)
