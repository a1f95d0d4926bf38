"""The secrets of an installation, each in a file of its own: `codebank secrets`.

Containers mount them, and `CODEBANK_…_FILE` names them. Made once: a vault key that changed would lock every card away.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from codebank.runtime.files import alone_in, write_atomically
from codebank.settings import DATABASES, READER_ROLE

#: Those that are plain keys; `up` makes the same ones for itself.
KEYS: Final = ("vault_key", "operator_key", "merchant_key", "web_secret")
_BYTES: Final = 32


def make_key() -> str:
    """Make a key that nobody guesses, as hexadecimal digits."""
    return secrets.token_hex(_BYTES)


def make_secrets(folder: Path, owner: int | None) -> dict[str, str]:
    """Write what is missing, and tell of each whether it was made or kept. Safe to repeat.

    Beside the keys: `postgres_password` of the server's administrator, and `postgres_passwords` of our roles.
    """
    with alone_in(folder, owner):
        made = {name: make_key() for name in (*KEYS, "postgres_password")}
        made["postgres_passwords"] = ",".join(f"{role}={make_key()}" for role in (*DATABASES, READER_ROLE))
        told = {}
        for name, value in made.items():
            path = folder / name
            told[name] = "kept" if path.exists() else "made"
            if not path.exists():
                write_atomically(path, value.encode(), 0o600, owner)
        return told
