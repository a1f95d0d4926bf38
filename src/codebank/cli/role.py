"""Commands of one role: run it, ask how it is."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from importlib.metadata import version

import click

from codebank.cli.words import answering, main, talk
from codebank.errors import Code, CodebankError
from codebank.settings import Settings


@main.command()
@click.argument("role")
@click.option("--health-fd", type=int, hidden=True, help="One of several processes: its open socket for health.")
@answering
def run(role: str, health_fd: int | None) -> None:
    """Run one role; settings from the environment."""
    from codebank.runtime.processes import process_count

    settings = Settings.load(os.environ)
    count = process_count(settings.bank_processes) if role == "bank" and health_fd is None else 1
    if count > 1:
        _run_bank_processes(settings, count)
    else:
        _run_process(role, settings, socket.socket(fileno=health_fd) if health_fd is not None else None)


def _run_process(role: str, settings: Settings, health_door: socket.socket | None) -> None:
    from codebank.roles import ROLES, telemetry_of
    from codebank.runtime.grpc.tls import watch_certificates
    from codebank.runtime.process import run_role
    from codebank.runtime.watch.tracer import open_tracer

    if role not in ROLES:
        raise CodebankError(Code.INVALID, f"no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    chosen = ROLES[role]
    telemetry = telemetry_of(chosen)
    watch_certificates(telemetry, settings)
    telemetry.tracer = open_tracer(role, settings.otlp, settings.trace_ratio, version("codebank"))
    run_role(
        role,
        functools.partial(chosen.run, settings),
        telemetry,
        host=settings.host,
        health_port=getattr(settings, chosen.health_port),
        log_level=settings.log_level,
        health_door=health_door,
    )


def _run_bank_processes(settings: Settings, count: int) -> None:
    # Of the bank itself nothing is loaded: the parent stays small.
    from codebank.bank.metrics import METRICS
    from codebank.runtime.process import run_role
    from codebank.runtime.processes import JointTelemetry, Parent, held_port

    telemetry = JointTelemetry(METRICS)
    with held_port(settings.host, settings.bank_port, "CODEBANK_BANK_PORT") as port:
        env = {**os.environ, "CODEBANK_BANK_PROCESSES": str(count), "CODEBANK_BANK_PORT": str(port)}
        run_role(
            "bank",
            Parent("bank", count, env, settings.stop_grace_seconds, telemetry).run,
            telemetry,
            host=settings.host,
            health_port=settings.bank_health_port,
            log_level=settings.log_level,
        )


@main.command()
@click.argument("role", required=False)
@click.option("--live", is_flag=True, help="Ask only whether it lives, not whether it can be used.")
@answering
def health(role: str | None, live: bool) -> None:
    """Ask a role on this machine whether it is ready; without ROLE, all that run here. Exit 0 only if so."""
    from codebank.runtime.watch.health import Health, ask_health
    from codebank.settings import ROLE_NAMES

    if role is not None and role not in ROLE_NAMES:
        raise CodebankError(Code.INVALID, f"no role {role!r}", hint=f"roles are {', '.join(ROLE_NAMES)}")
    settings = Settings.load(os.environ)

    async def ask() -> dict[str, Health]:
        asked = [role] if role else list(ROLE_NAMES)
        ports = [getattr(settings, f"{name}_health_port") for name in asked]
        answers = await asyncio.gather(*(ask_health(settings.own_host(), port, live=live) for port in ports))
        return dict(zip(asked, answers, strict=True))

    answers = asyncio.run(ask())
    found = {name: answer for name, answer in answers.items() if role or answer is not Health.ABSENT}
    for name, answer in found.items():
        talk(f"{name}: {answer}")
    if not found:
        talk("no role runs here")
    raise SystemExit(0 if found and all(answer is Health.WELL for answer in found.values()) else 1)
