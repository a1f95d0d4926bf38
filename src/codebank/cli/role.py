"""Commands of one role: run it, ask how it is."""

from __future__ import annotations

import asyncio
import functools
import os
from importlib.metadata import version

import click

from codebank.cli.words import answering, main, talk
from codebank.errors import Code, CodebankError
from codebank.settings import Settings


@main.command()
@click.argument("role")
@answering
def run(role: str) -> None:
    """Run one role; settings from the environment."""
    from codebank.roles import ROLES, telemetry_of
    from codebank.runtime.grpc.tls import watch_certificates
    from codebank.runtime.process import run_role
    from codebank.runtime.watch.tracer import open_tracer

    if role not in ROLES:
        raise CodebankError(Code.INVALID, f"no role {role!r}", hint=f"roles are {', '.join(ROLES)}")
    settings = Settings.load(os.environ)
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
        answers = await asyncio.gather(*(ask_health("127.0.0.1", port, live=live) for port in ports))
        return dict(zip(asked, answers, strict=True))

    answers = asyncio.run(ask())
    found = {name: answer for name, answer in answers.items() if role or answer is not Health.ABSENT}
    for name, answer in found.items():
        talk(f"{name}: {answer}")
    if not found:
        talk("no role runs here")
    raise SystemExit(0 if found and all(answer is Health.WELL for answer in found.values()) else 1)
