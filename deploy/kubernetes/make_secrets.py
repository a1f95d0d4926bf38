"""Makes the secrets and certificates of a development overlay, a folder per role with what that role may see.

Run by `make cluster-secrets`; safe to repeat: what is there stays, and certificates that end soon are made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path

from codebank.machine.handing_out import hand_out
from codebank.machine.keys import make_secrets
from codebank.runtime.grpc.certificates import hosts_of, make_certificates
from codebank.wire import utc_now

#: Further names under which each is called, and who needs a certificate besides the roles.
NAMES = ("bank:bank-replicas", "prepare")


def make(folder: Path) -> None:
    """Write `certs/` and `secrets/` into an overlay."""
    kept = folder / "secrets" / "all"
    make_secrets(kept, None)
    hand_out(kept, folder / "secrets", None)
    certs = folder / "certs"
    for name, did in make_certificates(certs, certs / "authority", hosts_of(NAMES), None, utc_now()).items():
        sys.stdout.write(f"{name}: {did}\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
