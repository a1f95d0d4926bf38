"""Measured loads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from codebank.cli.words import answering, data, found_settings, main, talk


@contextmanager
def _durable_server(folder: Path) -> Iterator[str]:
    """Run a PostgreSQL of the bench's own."""
    from codebank.machine.postgres import EmbeddedPostgres

    with EmbeddedPostgres(folder) as server:
        yield server.dsn("postgres", "postgres")


@main.group()
def bench() -> None:
    """Measure a load on this machine."""


def _measures(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of those that measure in alternating rounds."""
    for option in (
        click.option("--seconds", default=2, show_default=True, type=click.IntRange(1, 60), help="Time of one turn."),
        click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 50)),
        click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
    ):
        command = option(command)
    return command


@bench.command()
@_measures
@answering
def authorize(as_json: bool, rounds: int, seconds: int) -> None:
    """Measure Authorize beside an echo of the same server and the same rows by plain SQL."""
    from codebank.lab.bench import AUTHORIZE, run_scenario, table_of

    result = run_scenario(AUTHORIZE, _durable_server, rounds, seconds, talk)
    _show(result, table_of, as_json)


@bench.command()
@_measures
@answering
def hot(as_json: bool, rounds: int, seconds: int) -> None:
    """Measure 64 callers who charge one account beside 64 who charge many."""
    from codebank.lab.bench import HOT, run_scenario, table_of

    result = run_scenario(HOT, _durable_server, rounds, seconds, talk)
    _show(result, table_of, as_json)


@bench.command()
@_measures
@answering
def mixed(as_json: bool, rounds: int, seconds: int) -> None:
    """Measure operations of every kind beside charges alone."""
    from codebank.lab.bench import MIXED, run_scenario, table_of

    _show(run_scenario(MIXED, _durable_server, rounds, seconds, talk), table_of, as_json)


@bench.command()
@_measures
@click.option("--payments", default=100_000, show_default=True, type=click.IntRange(0, 100_000_000))
@click.option("--accounts", default=10_000, show_default=True, type=click.IntRange(1, 9_999_999))
@answering
def size(as_json: bool, rounds: int, seconds: int, payments: int, accounts: int) -> None:
    """Measure a bank with many payments and accounts beside one without any."""
    from codebank.lab.size import bench_size, table_of

    _show(bench_size(_durable_server, payments, accounts, rounds, seconds, talk), table_of, as_json)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 50))
@answering
def start(as_json: bool, rounds: int) -> None:
    """Measure how long `codebank up` takes until it can be used, first and again, and until it has stopped."""
    from codebank.lab.starting import bench_start, table_of

    _show(bench_start(rounds, talk), table_of, as_json)


def _show(result: Any, table_of: Callable[[Any], str], as_json: bool) -> None:
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 50))
@click.option("--seconds", default=3, show_default=True, type=click.IntRange(1, 60), help="Time of one turn.")
@click.option("--in-flight", default=32, show_default=True, type=click.IntRange(1, 512))
@answering
def metrics(as_json: bool, rounds: int, seconds: int, in_flight: int) -> None:
    """Measure what counting costs the bank, beside the same bank that counts nothing."""
    from codebank.lab.overhead import bench_metrics, table_of

    result = bench_metrics(_durable_server, rounds, seconds, in_flight, talk)
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--rate", default=100, show_default=True, type=click.IntRange(1, 5000), help="Payments per second.")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 600))
@click.option("--pages", default=40, show_default=True, type=click.IntRange(0, 40), help="Statement pages kept open.")
@answering
def flow(as_json: bool, rate: int, seconds: int, pages: int) -> None:
    """Measure, on the system that runs, how soon after the decision a payment is on log, statement, page and index."""
    from codebank.lab.delay import Run, bench_delay, table_of
    from codebank.roles import health_ports

    settings = found_settings()
    result = asyncio.run(bench_delay(settings, health_ports(settings), Run(rate, seconds, pages), talk))
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))
    raise SystemExit(0 if result.failed == 0 else 1)


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option(
    "--connections",
    default=(4, 16, 32),
    show_default=True,
    multiple=True,
    type=click.IntRange(1, 512),
    help="Buyers at once; may be given several times.",
)
@click.option("--seconds", default=10, show_default=True, type=click.IntRange(1, 600), help="Time of each.")
@answering
def order(as_json: bool, connections: tuple[int, ...], seconds: int) -> None:
    """Measure the whole path from `POST /api/orders` to the paid answer, and what an order costs by role."""
    from codebank.lab.ordering import bench_orders, table_of

    result = bench_orders(connections, seconds, talk)
    if as_json:
        data(result.document())
    else:
        click.echo(table_of(result))


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--orders", default=1_000_000, show_default=True, type=click.IntRange(1, 100_000_000))
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(1, 600), help="Time of one turn.")
@answering
def memory(as_json: bool, orders: int, seconds: int) -> None:
    """Measure what every role holds in memory while very many orders are paid."""
    from codebank.lab.memory import bench_memory, table_of

    _show(bench_memory(orders, seconds, talk), table_of, as_json)
