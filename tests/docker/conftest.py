"""Fixtures of the tests with containers: an engine and Codebank's image, once for the session."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.docker.bases import base_images
from tests.docker.engine import Engine, say, wanted_engine
from tests.docker.system import CONNECT_IMAGE, IMAGE, System


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Give an engine that has the base images."""
    engine = wanted_engine()
    try:
        engine.settings |= base_images(engine)
        yield engine
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """Build Codebank's image, and give its name."""
    began = time.monotonic()
    python = engine.settings["PYTHON_IMAGE"]
    engine.docker("build", "--file", "deploy/Dockerfile", "--build-arg", f"PYTHON_IMAGE={python}", "--tag", IMAGE, ".")
    size = engine.inspect(IMAGE)["Size"]
    say(f"the image was built in {time.monotonic() - began:.0f} s; it has {size / 1e6:.0f} MB")
    return IMAGE


@pytest.fixture(scope="session")
def connect_image(engine: Engine) -> str:
    """Build Kafka Connect's image, and give its name."""
    bases = {"MAVEN_IMAGE": engine.settings["MAVEN_IMAGE"], "KAFKA_IMAGE": engine.settings["IMAGE_KAFKA"]}
    arguments = [part for name, value in bases.items() for part in ("--build-arg", f"{name}={value}")]
    say("building Kafka Connect's image")
    engine.docker("build", "--file", "deploy/connect/Dockerfile", *arguments, "--tag", CONNECT_IMAGE, ".")
    return CONNECT_IMAGE


@pytest.fixture(scope="module")
def system(engine: Engine, image: str) -> Iterator[System]:
    """Give a project of its own that is not yet started; whatever is left of it goes at the end."""
    system = System(engine)
    try:
        yield system
    finally:
        system.compose("down", "--volumes", "--timeout", "5", check=False)
