"""Hosts and ports as programs write them: IPv6 in brackets, and the host at which a machine reaches itself."""

from __future__ import annotations

from typing import Final

#: Opened on every address of a machine, a port is reached at its own.
_ITSELF: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def reached(host: str) -> str:
    """Give the host at which a machine reaches what it opened on `host`."""
    return _ITSELF.get(host, host)


def known_as(host: str) -> str:
    """Give the name by which people on the machine reach what it opened on `host`."""
    return "localhost" if host in _ITSELF or host == "127.0.0.1" else host


def place(host: str, port: int) -> str:
    """Write a host and a port as one address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
