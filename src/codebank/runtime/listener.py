"""Ports of our own: opened the same way by whatever is served there, over IPv4 and IPv6."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from codebank.address import place
from codebank.errors import Code, CodebankError


def open_listener(host: str, port: int) -> socket.socket:
    """Open a port; `::` is every address of this machine, those of IPv4 too.

    Raises CodebankError where it cannot be had.
    """
    try:
        family, address = address_of(host, port)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Connections of an earlier run that linger in the system do not count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(address)
            listener.listen(socket.SOMAXCONN)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CodebankError(Code.FAILED_PRECONDITION, f"{place(host, port)} cannot be opened: {why(error)}") from error
    return listener


def address_of(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Give what a socket is bound to. Raises OSError where there is no such host."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Asked of the system, because only it knows the numbers of links: fe80::1%eth0.
    *_, address = socket.getaddrinfo(host or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return family, address


def why(error: OSError) -> str:
    """Say why a port cannot be opened, in words."""
    known = error.errno in errno.errorcode
    return (os.strerror(error.errno or 0) if known else error.strerror or str(error)).lower()
