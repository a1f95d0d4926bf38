"""Ports that are taken are named before anything is started."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from codebank.errors import CodebankError
from codebank.machine.ports import PortTaken, check_ports


@contextlib.contextmanager
def listening(host: str = "127.0.0.1", *, shared: bool = False) -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_port() -> int:
    with listening() as port:
        return port


def test_free_ports_pass_and_stay_free() -> None:
    port = free_port()

    check_ports([(port, "CODEBANK_BANK_PORT", "the bank"), (0, "CODEBANK_AUDIT_PORT", "any")])

    check_ports([(port, "CODEBANK_BANK_PORT", "the bank")])


def test_all_taken_ports_are_named_in_one_message_with_what_moves_them() -> None:
    with listening() as shop, listening() as bank:
        wanted = [
            (shop, "CODEBANK_CHECKOUT_PORT", "the shop"),
            (free_port(), "CODEBANK_STATEMENT_PORT", "the statement"),
            (bank, "CODEBANK_BANK_PORT", "the bank"),
        ]

        with pytest.raises(PortTaken) as raised:
            check_ports(wanted)

    assert isinstance(raised.value, CodebankError)
    assert [(item.port, item.setting_name, item.what) for item in raised.value.taken] == [wanted[0], wanted[2]]
    assert str(raised.value) == (
        f"port {shop} (the shop) is taken by another program\n"
        f"port {bank} (the bank) is taken by another program\n"
        "hint: set CODEBANK_CHECKOUT_PORT and CODEBANK_BANK_PORT to free ports"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_listener_on_any_address_or_one_that_shares_its_port_counts(host: str) -> None:
    with listening(host, shared=True) as port, pytest.raises(PortTaken):
        check_ports([(port, "CODEBANK_BANK_PORT", "the bank")])


def test_a_program_that_has_localhost_only_by_the_newer_address_counts() -> None:
    with contextlib.ExitStack() as stack:
        try:
            port = stack.enter_context(listening("::1"))
        except OSError:
            # A machine without that address: it must not be missed.
            check_ports([(free_port(), "CODEBANK_CHECKOUT_PORT", "the shop")])
            return

        with pytest.raises(PortTaken):
            check_ports([(port, "CODEBANK_CHECKOUT_PORT", "the shop")])


def test_a_connection_of_an_earlier_run_that_lingers_does_not_count() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client.connect(("127.0.0.1", port))
        server_side, _ = listener.accept()
        # The side that closes first is the one that lingers.
        server_side.close()
        assert client.recv(1) == b""

    check_ports([(port, "CODEBANK_CHECKOUT_PORT", "the shop")])


def test_one_port_for_two_things_is_refused() -> None:
    port = free_port()

    with pytest.raises(PortTaken, match=rf"port {port} \(the statement\) is wanted for the shop too"):
        check_ports([(port, "CODEBANK_CHECKOUT_PORT", "the shop"), (port, "CODEBANK_STATEMENT_PORT", "the statement")])


def test_a_port_that_does_not_exist_is_named() -> None:
    with pytest.raises(PortTaken, match="port 70000 \\(the shop\\) does not exist: ports end at 65535"):
        check_ports([(70_000, "CODEBANK_CHECKOUT_PORT", "the shop")])


def test_an_address_that_is_not_this_machine_s_is_named() -> None:
    with pytest.raises(PortTaken, match=r"cannot be opened on 192\.0\.2\.1: cannot assign requested address"):
        check_ports([(free_port(), "CODEBANK_CHECKOUT_PORT", "the shop")], host="192.0.2.1")
