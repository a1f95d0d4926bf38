"""Mutual TLS at the bank's door: who is vouched for comes in, nobody else, and a renewal needs no restart."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from codebank.checkout.bank import BankClient
from codebank.errors import CodebankError
from codebank.operate.cards import block_card
from codebank.roles import METRICS
from codebank.runtime.grpc.certificates import hosts_of, make_certificates
from codebank.runtime.grpc.tls import Identity, Options, open_channel
from codebank.runtime.watch.telemetry import Telemetry
from codebank.settings import Settings
from codebank.v1 import bank_pb2 as pb
from codebank.v1 import bank_pb2_grpc
from codebank.wire import new_id, utc_now
from tests.bank import MERCHANT, charge
from tests.conftest import TEST_MERCHANT_KEY, BankServer, Databases, seed, serving_bank, settings_for

pytestmark = pytest.mark.anyio

ALONE: Options = [("grpc.use_local_subchannel_pool", 1)]


def make(folder: Path, days_ago: int = 0) -> None:
    """Make an authority in a folder, and certificates for all."""
    make_certificates(folder, folder / "authority", hosts_of([]), None, utc_now() - timedelta(days=days_ago))


def identity(folder: Path, name: str) -> Identity:
    """Name the files of one role."""
    return Identity(folder / "ca.crt", folder / name / "tls.crt", folder / name / "tls.key")


def files(folder: Path, name: str = "bank") -> dict[str, Any]:
    """Give the settings that name the files of a role."""
    named = identity(folder, name)
    return {
        "tls_ca_file": str(named.authority),
        "tls_certificate_file": str(named.certificate),
        "tls_key_file": str(named.key),
    }


async def shown(server: BankServer, folder: Path) -> bytes | None:
    """Give the certificate that the bank shows to a new caller."""
    host, _, port = server.address.partition(":")
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "relay" / "tls.crt", folder / "relay" / "tls.key")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="bank")
    certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return certificate


async def charged(server: BankServer, who: Identity | None) -> grpc.StatusCode:
    """Charge a card and give how it went."""
    async with open_channel(server.address, who, ALONE) as channel:
        try:
            await bank_pb2_grpc.BankStub(channel).Authorize(charge(str(new_id())), metadata=MERCHANT, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def test_who_is_vouched_for_pays_and_nobody_else(
    settings: Settings, databases: Databases, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    make(ours)
    make(theirs)
    await seed(settings_for(databases))

    async with serving_bank(settings_for(databases, **files(ours))) as server:
        assert await charged(server, identity(ours, "checkout")) is grpc.StatusCode.OK
        assert await charged(server, None) is grpc.StatusCode.UNAVAILABLE
        assert await charged(server, identity(theirs, "checkout")) is grpc.StatusCode.UNAVAILABLE
        # Believes the bank, and shows nothing, or what another vouched for.
        for pair in ((None, None), (theirs / "checkout" / "tls.key", theirs / "checkout" / "tls.crt")):
            key, certificate = (path.read_bytes() if path else None for path in pair)
            seen = grpc.ssl_channel_credentials((ours / "ca.crt").read_bytes(), key, certificate)
            async with grpc.aio.secure_channel(server.address, seen, options=list(ALONE)) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await bank_pb2_grpc.BankStub(channel).GetPayment(
                        pb.GetPaymentRequest(idempotency_key="k"), metadata=MERCHANT, timeout=5
                    )
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_needs_no_restart_on_either_side(databases: Databases, tmp_path: Path) -> None:
    make(tmp_path, days_ago=70)
    await seed(settings_for(databases))

    async with serving_bank(settings_for(databases, **files(tmp_path))) as server:
        client = BankClient(server.address, TEST_MERCHANT_KEY, 5, Telemetry(METRICS), identity(tmp_path, "checkout"))
        assert await client.find(new_id()) is None
        before = await shown(server, tmp_path)
        make(tmp_path)
        after = await shown(server, tmp_path)
        assert await client.find(new_id()) is None
        assert await charged(server, identity(tmp_path, "checkout")) is grpc.StatusCode.OK
        await client.close()

    assert before != after
    assert after == ssl.PEM_cert_to_DER_cert((tmp_path / "bank" / "tls.crt").read_text())


async def test_a_renewal_that_is_half_done_harms_nobody(
    settings: Settings, databases: Databases, tmp_path: Path
) -> None:
    make(tmp_path, days_ago=70)
    await seed(settings_for(databases))

    async with serving_bank(settings_for(databases, **files(tmp_path))) as server:
        client = BankClient(server.address, TEST_MERCHANT_KEY, 5, Telemetry(METRICS), identity(tmp_path, "checkout"))
        assert await client.find(new_id()) is None
        for name in ("bank", "checkout"):
            (tmp_path / name / "tls.crt").write_text("half of it")
        assert await client.find(new_id()) is None
        make(tmp_path)
        assert await client.find(new_id()) is None
        assert await charged(server, identity(tmp_path, "checkout")) is grpc.StatusCode.OK
        await client.close()


def test_a_certificate_that_has_ended_is_refused_at_the_start_in_words(tmp_path: Path) -> None:
    make(tmp_path, days_ago=91)

    with pytest.raises(CodebankError, match="ended") as caught:
        Identity.of(Settings(**files(tmp_path)))
    assert "codebank certs" in caught.value.hint


def test_a_part_of_the_files_is_refused_by_the_names_of_the_others(tmp_path: Path) -> None:
    make(tmp_path)
    whole = Settings(**files(tmp_path))

    assert Identity.of(Settings()) is None
    with pytest.raises(CodebankError, match="CODEBANK_TLS_CERTIFICATE_FILE and CODEBANK_TLS_KEY_FILE"):
        Identity.of(replace(whole, tls_certificate_file="", tls_key_file=""))
    with pytest.raises(CodebankError, match="No such file"):
        Identity.of(replace(whole, tls_ca_file=str(tmp_path / "nowhere")))
    with pytest.raises(CodebankError, match="is not the key of"):
        Identity.of(replace(whole, tls_key_file=str(tmp_path / "relay" / "tls.key")))


def test_the_operators_commands_speak_tls_too(tmp_path: Path) -> None:
    make(tmp_path)

    with pytest.raises(CodebankError, match="the bank said"):
        block_card(Settings(bank_address="127.0.0.1:1", **files(tmp_path, "audit")), str(new_id()), "lost")
