"""Makes the data folder of an embedded PostgreSQL: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.machine.unprivileged import as_server_user, give_to_server, under_a_name
from codebank.runtime.children import die_with_parent

#: From here on PostgreSQL knows the letters of all languages by itself, whatever the machine has.
_BUILTIN_LOCALE_VERSION: Final = 17
#: From here on initdb can be told a setting.
_SETTING_VERSION: Final = 16
_NAMELESS: Final = "could not look up effective user ID"
#: What queries share is not kept in /dev/shm, which containers make small (macOS limits the other kind).
SHARED_MEMORY: Final = "sysv" if sys.platform == "linux" else "posix"


def make_data(data: Path, tree: Path, version: int, *, durable: bool) -> None:
    """Make a data folder with the programs of a tree, which are of a major version.

    Raises CodebankError with what PostgreSQL said where it cannot.
    """
    # In a folder aside, then renamed: a first start that is cut short leaves nothing that looks finished.
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    give_to_server(fresh)
    # Bytes sort as bytes, yet every letter has its capital: "AÇAÍ" is found by "açaí".
    builtin = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    locale = builtin if version >= _BUILTIN_LOCALE_VERSION else ["--locale=C.UTF-8"]
    memory = ["-c", f"dynamic_shared_memory_type={SHARED_MEMORY}"] if version >= _SETTING_VERSION else []
    command = [
        str(tree / "bin" / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth-local=trust",
        "--auth-host=reject", "-E", "UTF8", *locale, *memory, "--data-checksums", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(
        command if durable else [*command, "--no-sync"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,
        preexec_fn=under_a_name(die_with_parent(signal.SIGTERM)),
        **as_server_user(),
    )
    said = (done.stderr or done.stdout).strip()
    if done.returncode != 0 and _NAMELESS in said:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"user {os.geteuid()} has no name on this machine, and PostgreSQL's initdb asks for it",
            hint="give it a line in /etc/passwd, or set CODEBANK_POSTGRES to a server's address",
        )
    if done.returncode != 0:
        raise CodebankError(Code.INTERNAL, f"initdb failed: {said[-500:]}")
    fresh.rename(data)
    # The new name must survive a power cut as surely as the money below it.
    _sync_folder(data.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
