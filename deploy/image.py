"""Lays out the image's file system: Python, the environment that holds Codebank, and the libraries that they load.

Run by deploy/Dockerfile in the stage that built the environment: `python3 image.py IMAGE STATE UID`.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ENVIRONMENT = Path("/opt/codebank")
#: Parts of the standard library that a server never imports; `site-packages` holds the base image's pip.
LEFT_OUT = (
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip",
    "lib2to3", "pydoc_data", "config-*", "EXTERNALLY-MANAGED", "_tkinter*.so",
)  # fmt: skip
#: What the C library and OpenSSL read at run time. A file that a base image does not have is not needed there.
FILES = (
    "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/os-release", "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs/ca-certificates.crt", "/usr/lib/ssl/openssl.cnf", "/usr/lib/ssl/certs",
)  # fmt: skip
#: Opened by name while the program runs, so no table of a library names them.
OPENED_LATER = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2")


def bring(path: Path, image: Path) -> None:
    """Copy a file, with every link and folder on the way to it."""
    place, parts = Path("/"), list(path.parts[1:])
    while parts:
        place /= parts.pop(0)
        copy = image / place.relative_to("/")
        if place.is_symlink():
            if not copy.is_symlink():
                copy.symlink_to(place.readlink())
            goal = Path(os.path.normpath(place.parent / place.readlink()))
            place, parts = Path("/"), [*goal.parts[1:], *parts]
        elif place.is_dir():
            copy.mkdir(exist_ok=True)
        elif not copy.exists():
            shutil.copy2(place, copy)


def libraries_of(programs: list[Path]) -> set[Path]:
    """Ask the loader which libraries the programs load."""
    found: set[Path] = set()
    for program in programs:
        said = subprocess.run(["/usr/bin/ldd", program], capture_output=True, text=True)
        for line in said.stdout.splitlines():
            if "not found" in line:
                raise SystemExit(f"{program} needs a library that is not here: {line.strip()}")
            named = line.split("=>")[-1].split()
            if named and named[0].startswith("/"):
                found.add(Path(named[0]))
    return found


def lay_out(image: Path) -> None:
    """Put everything that runs below `image`, compiled: a read-only root cannot be compiled into later."""
    image.mkdir()
    python, standard = Path(sys.executable), Path(sysconfig.get_path("stdlib"))
    bring(python, image)
    bring(standard / "os.py", image)
    for source, skipped in ((standard, LEFT_OUT), (ENVIRONMENT, ("__pycache__",))):
        target = image / source.resolve().relative_to("/")
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*skipped))
        # Not by time stamps: what is copied into the image again would seem to have changed.
        compileall.compile_dir(
            target, quiet=1, stripdir=image, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    bring(ENVIRONMENT / "bin" / "python3", image)
    objects = [path for folder in (image, ENVIRONMENT) for path in folder.rglob("*.so*") if path.is_file()]
    originals = [Path("/") / path.relative_to(image) if path.is_relative_to(image) else path for path in objects]
    libraries = libraries_of([python, *originals])
    beside = {library.parent for library in libraries}
    later = {folder / name for folder in beside for name in OPENED_LATER if (folder / name).exists()}
    for path in sorted(libraries | later | {Path(name) for name in FILES if Path(name).exists()}):
        bring(path, image)


#: Who has a volume of its own with the secrets that it reads.
SEEN_BY = ("prepare", "postgres", "bank", "relay", "projector", "checkout", "statement", "audit")


def main() -> None:
    """Make both folders."""
    image, state, uid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    lay_out(image)
    for folder in ("tmp", "var/lib"):
        (image / folder).mkdir(parents=True, exist_ok=True)
    (image / "tmp").chmod(0o1777)
    (image / "etc" / "passwd").write_text(
        f"root:x:0:0:root:/:/sbin/nologin\ncodebank:x:{uid}:{uid}:codebank:/var/lib/codebank:/sbin/nologin\n"
    )
    (image / "etc" / "group").write_text(f"root:x:0:\ncodebank:x:{uid}:\n")
    # A new volume takes over owner and mode of the folder that it is mounted on.
    for name in ("certs", "authority", "secrets", "secrets/seen-by", *(f"secrets/seen-by/{one}" for one in SEEN_BY)):
        (state / name).mkdir(parents=True, mode=0o700)


if __name__ == "__main__":
    main()
