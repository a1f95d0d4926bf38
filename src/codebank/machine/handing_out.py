"""What each container sees of an installation's secrets: a folder for each, with its own and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from codebank.machine.keys import KEYS
from codebank.roles import ROLES
from codebank.runtime.files import make_private_folder, write_atomically
from codebank.settings import DATABASES, READER_ROLE, Settings

#: Who → the keys that he reads, and the database roles whose passwords he knows. On Kafka nobody opens the database
#: `log`, and who speaks to Kafka shows a certificate; Elasticsearch's password is its operator's.
SEEN: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    **{
        role.name: (
            tuple(key for key in role.secrets if key in KEYS),
            tuple(name for name in role.database_roles if name != "log"),
        )
        for role in ROLES.values()
    },
    # The jobs before a start, and the server of the databases.
    "prepare": (("vault_key", "merchant_key", "postgres_password"), (*DATABASES, READER_ROLE)),
    "postgres": (("postgres_password",), ()),
}


def hand_out(kept: Path, folder: Path, owner: int | None) -> None:
    """Copy of what `make_secrets` keeps in `kept` to `folder`/NAME what NAME sees. Safe to repeat."""
    passwords = Settings(postgres_passwords=(kept / "postgres_passwords").read_text()).role_passwords()
    for name, (keys, roles) in SEEN.items():
        place = folder / name
        make_private_folder(place, owner)
        for key in keys:
            write_atomically(place / key, (kept / key).read_bytes(), 0o600, owner)
        if roles:
            known = ",".join(f"{role}={passwords[role]}" for role in roles)
            write_atomically(place / "postgres_passwords", known.encode(), 0o600, owner)
