"""Ports: whether the ones we are about to open are free, before anything is started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from codebank.errors import Code, CodebankError
from codebank.runtime.listener import address_of, why

#: A browser that is told `localhost` may go to the newer address of this machine first, where another program may be.
_LOOPBACK_TWINS: Final = {"127.0.0.1": "::1", "localhost": "::1", "0.0.0.0": "::1", "": "::1"}  # noqa: S104
_NO_SUCH_ADDRESS: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
_PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class TakenPort:
    """A port that we cannot have."""

    port: int
    #: The variable that moves it, such as `CODEBANK_BANK_PORT`.
    setting_name: str
    #: What we wanted it for, in words.
    what: str
    #: Why not: continues the sentence "port 8000 (the shop) …".
    reason: str


class PortTaken(CodebankError):
    """Some ports cannot be had; names all of them, and the settings that move them."""

    def __init__(self, taken: Sequence[TakenPort]) -> None:
        lines = [f"port {item.port} ({item.what}) {item.reason}" for item in taken]
        settings = " and ".join(dict.fromkeys(item.setting_name for item in taken))
        what_to = "a free port" if len(taken) == 1 else "free ports"
        super().__init__(Code.FAILED_PRECONDITION, "\n".join(lines), hint=f"set {settings} to {what_to}")
        self.taken = tuple(taken)


def check_ports(ports: Sequence[tuple[int, str, str]], host: str = "127.0.0.1") -> None:
    """Check that every port of (number, name of its setting, what it is for) is free; raise PortTaken if not."""
    taken = []
    wanted: dict[int, str] = {}
    for port, setting_name, what in ports:
        first = wanted.setdefault(port, what)
        reason = f"is wanted for {first} too" if first is not what and port else _why_not(host, port)
        if reason:
            taken.append(TakenPort(port, setting_name, what, reason))
    if taken:
        raise PortTaken(taken)


def _why_not(host: str, port: int) -> str | None:
    if port > _PORT_MAX:
        return f"does not exist: ports end at {_PORT_MAX}"
    if port == 0:
        # The system chooses a free one.
        return None
    twin = _LOOPBACK_TWINS.get(host)
    return _bind_error(host, port) or (_bind_error(twin, port, must_exist=False) if twin else None)


def _bind_error(host: str, port: int, *, must_exist: bool = True) -> str | None:
    try:
        family, address = address_of(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of an earlier run that linger in the system do not count as a program.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # A twin is looked at alone; what we open ourselves on `::` is open to IPv4 too.
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not must_exist))
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return "is taken by another program"
        if error.errno in _NO_SUCH_ADDRESS and not must_exist:
            return None
        return f"cannot be opened on {host}: {why(error)}"
    return None
