"""Java on this machine: where it is, and how programs are fetched that are published for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from codebank.errors import Code, CodebankError

Say = Callable[[str], None]

#: Kafka runs on this one or newer, Elasticsearch on the second.
KAFKA_JAVA: Final = 17
ELASTICSEARCH_JAVA: Final = 21
_PLACES: Final = ("/usr/lib/jvm/*", "/Library/Java/JavaVirtualMachines/*/Contents/Home", "/opt/homebrew/opt/openjdk*")
_COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_HINT: Final = (
    "install a JDK of 21 or newer and Maven, such as `apt-get install maven temurin-21-jdk` or `brew install maven"
    " openjdk`; JAVA_HOME may name the JDK. Codebank itself needs neither: `make run` works without"
)
_PROGRESS_SECONDS: Final = 3
_FOR_ALL_JAVA: Final = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")


def find_java(at_least: int) -> Path:
    """Find the home of a JDK: the oldest that is new enough. Raises CodebankError saying what to install."""
    found: dict[int, Path] = {}
    for home in _candidates():
        version = _version(home)
        if version >= at_least:
            found.setdefault(version, home)
    if not found:
        raise CodebankError(Code.FAILED_PRECONDITION, f"no Java {at_least} or newer was found", hint=_HINT)
    return found[min(found)]


def _candidates() -> Iterator[Path]:
    if os.environ.get("JAVA_HOME"):
        yield Path(os.environ["JAVA_HOME"])
    on_path = shutil.which("javac")
    if on_path:
        yield Path(on_path).resolve().parent.parent
    for place in _PLACES:
        base, _, pattern = place.partition("*")
        folder = Path(base).parent if not base.endswith("/") else Path(base)
        yield from sorted(folder.glob(f"{Path(base).name if folder != Path(base) else ''}*{pattern}"))


def _version(home: Path) -> int:
    """Tell the version of a JDK; 0 where there is none."""
    try:
        said = subprocess.run(
            [home / "bin" / "javac", "-version"],
            capture_output=True,
            text=True,
            timeout=30,
            env=server_environment(),
        )
    except OSError:
        return 0
    number = re.search(r"javac (\d+)", said.stdout + said.stderr)
    return int(number[1]) if number else 0


def server_environment() -> dict[str, str]:
    """Give the environment of a server in Java: without the options that are meant for every other program in Java."""
    return {name: value for name, value in os.environ.items() if name not in _FOR_ALL_JAVA}


def java_environment(home: Path) -> dict[str, str]:
    """Give the environment in which programs use a JDK."""
    return {**os.environ, "JAVA_HOME": str(home)}


def maven(home: Path, folder: Path, goals: list[str], say: Say, what: str) -> None:
    """Run Maven on a folder's pom, telling now and then how far it is. Raises CodebankError with what it said."""
    program = shutil.which("mvn")
    if program is None:
        raise CodebankError(Code.FAILED_PRECONDITION, "Maven (mvn) was not found", hint=_HINT)
    command = [program, "--batch-mode", "--file", str(folder / "pom.xml"), *goals]
    said: list[str] = []
    files, told_at = 0, time.monotonic()
    with subprocess.Popen(
        command, env=java_environment(home), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            files += line.count("Downloaded from")
            if files and time.monotonic() - told_at > _PROGRESS_SECONDS:
                told_at = time.monotonic()
                say(f"  {what}: {files} files downloaded")
    if process.returncode:
        wrong = [line for line in said if "ERROR" in line] or said
        raise CodebankError(Code.UNAVAILABLE, f"{what} could not be made ready:\n{''.join(wrong[:12]).strip()}")


def fetch(home: Path, pom_folder: Path, target: Path, say: Say, what: str) -> Path:
    """Copy what a pom lists, with all that it needs, into a folder; once for each state of the pom."""
    stamp, wanted = target / "pom.xml", (pom_folder / "pom.xml").read_bytes()
    if stamp.exists() and stamp.read_bytes() == wanted:
        return target
    say(f"fetching {what} (once)")
    shutil.rmtree(target, ignore_errors=True)
    options = [f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
    maven(home, pom_folder, [_COPY, *options], say, what)
    stamp.write_bytes(wanted)
    return target
