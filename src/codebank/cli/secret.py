"""Commands that make certificates and secrets."""

from __future__ import annotations

from pathlib import Path

import click

from codebank.cli.words import answering, main, talk


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
    """Make the secrets of an installation, a file each; what is there stays. Safe to repeat.

    FOLDER/seen-by/NAME holds what container NAME reads and nothing else; where it is a volume, that is all it mounts.
    """
    from codebank.machine.handing_out import hand_out
    from codebank.machine.keys import make_secrets

    for name, did in make_secrets(folder, owner).items():
        talk(f"{name}: {did}")
    hand_out(folder, folder / "seen-by", owner)
