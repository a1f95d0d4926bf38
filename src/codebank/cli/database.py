"""Commands that prepare databases."""

from __future__ import annotations

import asyncio
import os

from codebank.cli.words import answering, data, found_settings, main, talk
from codebank.errors import Code, CodebankError
from codebank.settings import DATABASES, READER_ROLE, Settings


@main.command()
@answering
def databases() -> None:
    """Make the databases and their roles on the server of CODEBANK_POSTGRES. Safe to repeat."""
    from codebank.runtime.postgres.errors import OUTAGES
    from codebank.runtime.postgres.provision import prepare_databases

    settings = Settings.load(os.environ)
    if not settings.postgres:
        raise CodebankError(Code.INVALID, "CODEBANK_POSTGRES names no server", hint="`codebank up` makes its own")
    preparing = prepare_databases(settings.admin_url(), DATABASES, READER_ROLE, settings.role_passwords())
    try:
        asyncio.run(preparing)
    except OUTAGES as error:
        raise CodebankError(Code.UNAVAILABLE, f"{settings.postgres} does not let us in: {error}") from error
    talk(f"{', '.join(DATABASES)} are there, and the reader {READER_ROLE}")


@main.command()
@answering
def migrate() -> None:
    """Bring every database up to date. Safe to repeat."""
    from codebank.roles import migrate_all

    data(asyncio.run(migrate_all(found_settings())))


@main.command()
@answering
def seed() -> None:
    """Put the demo's data into every database. Safe to repeat."""
    from codebank.operate.demo import seed_all

    asyncio.run(seed_all(found_settings()))
