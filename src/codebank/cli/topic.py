"""Kafka's topics."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from codebank.cli.words import answering, data, found_settings, main
from codebank.errors import Code, CodebankError


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the topics as JSON.")
@answering
def topics(as_json: bool) -> None:
    """Make Kafka's topics, or check them: corrected where that is safe, refused with the difference where not."""
    from codebank.eventlog.kafka.topics import prepare_topics

    settings = found_settings()
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
