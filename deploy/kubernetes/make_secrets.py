"""Makes the secrets and certificates of a development overlay, a folder per role with what that role may see.

Run by `make cluster-secrets`; safe to repeat: what is there stays, and certificates that end soon are made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from codebank.machine.keys import KEYS, make_secrets
from codebank.roles import ROLES
from codebank.runtime.files import write_atomically
from codebank.runtime.grpc.certificates import hosts_of, make_certificates
from codebank.settings import DATABASES, READER_ROLE, Settings
from codebank.wire import utc_now

#: Pod → the keys that it reads, and the database roles whose passwords it knows. On Kafka nobody opens the database
#: `log`, and who speaks to Kafka shows a certificate; Elasticsearch's password is its operator's.
SEEN = {
    **{
        role.name: (
            tuple(key for key in role.secrets if key in KEYS),
            tuple(name for name in role.database_roles if name != "log"),
        )
        for role in ROLES.values()
    },
    "prepare": (("vault_key", "merchant_key", "postgres_password"), (*DATABASES, READER_ROLE)),
}
#: Further names under which each is called, and who needs a certificate besides the roles.
NAMES = ("bank:bank-replicas", "prepare")


def make(folder: Path) -> None:
    """Write `certs/` and `secrets/` into an overlay."""
    kept = folder / "secrets" / "all"
    make_secrets(kept, None)
    passwords = Settings(postgres_passwords=(kept / "postgres_passwords").read_text()).role_passwords()
    for pod, (keys, roles) in SEEN.items():
        place = folder / "secrets" / pod
        place.mkdir(mode=0o700, exist_ok=True)
        for key in keys:
            write_atomically(place / key, (kept / key).read_bytes(), 0o600, None)
        known = ",".join(f"{role}={passwords[role]}" for role in roles)
        write_atomically(place / "postgres_passwords", known.encode(), 0o600, None)
    certs = folder / "certs"
    for name, did in make_certificates(certs, certs / "authority", hosts_of(NAMES), None, utc_now()).items():
        sys.stdout.write(f"{name}: {did}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
