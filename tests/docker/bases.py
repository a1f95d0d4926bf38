"""The images that a session runs: the official ones where they can be had, else stand-ins made of Debian packages."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from codebank.machine.servers.java import KAFKA_JAVA, fetch, find_java
from tests.docker.engine import CACHE, ROOT, Engine, run, say

STANDINS = Path(__file__).parent / "standin"
_DEBIAN = "codebank-test/debian"
_INCLUDED = "ca-certificates,python3,python3-venv,python3-pip"
_AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


def default_of(file: Path, argument: str) -> str:
    """Read which image a Dockerfile or a compose file uses where nobody says otherwise."""
    found = re.search(rf"(?:ARG {argument}=|\${{{argument}:-)([^\s}}]+)", file.read_text())
    assert found, f"{file.name} does not name {argument}"
    return found[1]


def base_images(engine: Engine) -> dict[str, str]:
    """Give the base images, by the variable that names each; tells which are stand-ins."""
    deploy = ROOT / "deploy"
    wanted = {
        "PYTHON_IMAGE": default_of(deploy / "Dockerfile", "PYTHON_IMAGE"),
        "MAVEN_IMAGE": default_of(deploy / "connect" / "Dockerfile", "MAVEN_IMAGE"),
        "IMAGE_POSTGRES": default_of(deploy / "compose.yaml", "IMAGE_POSTGRES"),
        "IMAGE_KAFKA": default_of(deploy / "compose.yaml", "IMAGE_KAFKA"),
    }
    return {name: _official(engine, image) or _standin(engine, name, image) for name, image in wanted.items()}


def _official(engine: Engine, image: str) -> str:
    if engine.has_image(image):
        return image
    pulled = run("docker", "pull", "--quiet", image, env=engine.environment, check=False, seconds=300)
    return "" if pulled.returncode else image


def _standin(engine: Engine, variable: str, image: str) -> str:
    name = variable.removeprefix("IMAGE_").removesuffix("_IMAGE").lower()
    say(f"{image} cannot be had; {_DEBIAN.partition('/')[0]}/{name} stands in for it")
    if not engine.has_image(_DEBIAN):
        _make_debian(engine)
    with tempfile.TemporaryDirectory() as made:
        context = Path(made) / name
        shutil.copytree(STANDINS / name, context)
        if name == "kafka":
            java = find_java(KAFKA_JAVA)
            jars = fetch(java, ROOT / "deploy" / "local" / "kafka", CACHE / "kafka", say, "Kafka")
            shutil.copytree(jars, context / "libs")
            shutil.copy(ROOT / "deploy" / "local" / "kafka" / "log4j2.properties", context)
        engine.docker("build", "--quiet", "--tag", f"codebank-test/{name}", str(context))
    return f"codebank-test/{name}"


def _make_debian(engine: Engine) -> None:
    say("making a Debian base image (once, about two minutes)")
    with tempfile.TemporaryDirectory(dir=CACHE) as made:
        tree = Path(made) / "debian"
        run("debootstrap", "--variant=minbase", f"--include={_INCLUDED}", "bookworm", str(tree), seconds=900)
        # Whoever looks into our connections does so inside a build too.
        shutil.copy(Path("/") / _AUTHORITIES, tree / _AUTHORITIES)
        for archive in (tree / "var" / "cache" / "apt" / "archives").glob("*.deb"):
            archive.unlink()
        archive = Path(made) / "debian.tar"
        run("tar", "--directory", str(tree), "--create", "--file", str(archive), ".")
        engine.docker("import", str(archive), _DEBIAN)
