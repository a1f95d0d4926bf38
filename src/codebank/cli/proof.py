"""Prove from the terminal."""

from __future__ import annotations

import asyncio

import click

from codebank.cli.words import answering, data, found_settings, main


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the proof as JSON.")
@answering
def proof(as_json: bool) -> None:
    """Compare orders, ledger, log, statement and search index; exit 0 only if all agree."""
    from codebank.audit.proof.prove import prove_once
    from codebank.audit.proof.reconcile import DIFFERENCES_SHOWN

    found = asyncio.run(prove_once(found_settings()))
    if as_json:
        data(found.document())
    else:
        for check in found.checks:
            click.echo(f"{'✓' if check.holds else '✕'} {check.name:<10} {check.compared:>8}  {check.promise}")
            for difference in check.differences[:DIFFERENCES_SHOWN]:
                click.echo(f"    {difference}")
            if len(check.differences) > DIFFERENCES_SHOWN:
                click.echo(f"    … and {len(check.differences) - DIFFERENCES_SHOWN} more")
        verdict = "all agree" if found.agrees else "they do not agree"
        click.echo(f"{verdict}: {', '.join(found.parties)}; {found.lag_events} events on their way")
    raise SystemExit(0 if found.agrees else 1)
