"""Commands that prepare a machine: certificates, secrets, databases; and the question whether a role is well."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from codebank.cli.words import answering, main, talk
from codebank.errors import Code, CodebankError
from codebank.settings import DATABASES, READER_ROLE, Settings


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", "names", multiple=True, help="One more, or further hosts of one: `NAME` or `NAME:HOST,HOST`.")
@click.option(
    "--authority", type=click.Path(path_type=Path, file_okay=False), help="Where its key lies; FOLDER/authority."
)
@click.option("--owner", type=click.IntRange(0), help="Number of the user who is to own the files.")
@answering
def certs(folder: Path, names: tuple[str, ...], authority: Path | None, owner: int | None) -> None:
    """Make an authority and a certificate for each role, or renew those that end within 30 days. Safe to repeat."""
    from codebank.runtime.grpc.certificates import hosts_of, make_certificates
    from codebank.wire import utc_now

    told = make_certificates(folder, authority or folder / "authority", hosts_of(names), owner, utc_now())
    for name, did in told.items():
        talk(f"{name}: {did}")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--owner", type=click.IntRange(0), help="Number of the user who is to own the files.")
@answering
def secrets(folder: Path, owner: int | None) -> None:
    """Make the secrets of an installation, a file each; what is there stays. Safe to repeat."""
    from codebank.machine.keys import make_secrets

    for name, did in make_secrets(folder, owner).items():
        talk(f"{name}: {did}")


@main.command()
@answering
def databases() -> None:
    """Make the databases and their roles on the server of CODEBANK_POSTGRES. Safe to repeat."""
    from codebank.runtime.postgres.pool import CONNECTION_ERRORS
    from codebank.runtime.postgres.provision import prepare_databases

    settings = Settings.load(os.environ)
    if not settings.postgres:
        raise CodebankError(Code.INVALID, "CODEBANK_POSTGRES names no server", hint="`codebank up` makes its own")
    preparing = prepare_databases(settings.admin_url(), DATABASES, READER_ROLE, settings.role_passwords())
    try:
        asyncio.run(preparing)
    except CONNECTION_ERRORS as error:
        raise CodebankError(Code.UNAVAILABLE, f"{settings.postgres} does not let us in: {error}") from error
    talk(f"{', '.join(DATABASES)} are there, and the reader {READER_ROLE}")


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
