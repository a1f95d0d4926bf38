"""Mutual TLS between roles: what a role shows, whom it believes, and gRPC's doors with it.

All roles' certificates come from one authority of the installation's own (`codebank certs`). TLS says that the other
side is a part of the installation and keeps others from listening; what a caller may do is decided by its API key.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from codebank.errors import Code, CodebankError
from codebank.runtime.grpc.certificates import expiry_of
from codebank.runtime.watch.telemetry import Telemetry, fields
from codebank.settings import Settings

log = logging.getLogger(__name__)

Options = Sequence[tuple[str, Any]]
#: Nobody stands between two roles, whatever the environment says of proxies.
_DIRECT: Final = ("grpc.enable_http_proxy", 0)
_HINT: Final = "`codebank certs FOLDER` makes certificates; docs/operations.md says how they are mounted and renewed"


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificates of one role, as they are on disk now."""

    authority: Path
    certificate: Path
    key: Path

    @staticmethod
    def of(settings: Settings) -> Identity | None:
        """Give the identity that the settings name; None where roles talk in clear.

        Raises CodebankError where only a part of it is named, or it cannot be used.
        """
        named = {
            "tls_ca_file": settings.tls_ca_file,
            "tls_certificate_file": settings.tls_certificate_file,
            "tls_key_file": settings.tls_key_file,
        }
        if not any(named.values()):
            return None
        missing = [f"CODEBANK_{name.upper()}" for name, value in named.items() if not value]
        if missing:
            raise CodebankError(Code.INVALID, f"TLS needs {' and '.join(missing)} too", hint=_HINT)
        identity = Identity(*(Path(value) for value in named.values()))
        identity.read()  # so that what is wrong is said at the start
        return identity

    def read(self) -> Pems:
        """Read the files.

        Raises CodebankError where one cannot be read, the key is another's, or the certificate has ended.
        """
        try:
            pems = Pems(self.authority.read_bytes(), self.certificate.read_bytes(), self.key.read_bytes())
            key = serialization.load_pem_private_key(pems.key, None)
            certificate = x509.load_pem_x509_certificate(pems.certificate)
            x509.load_pem_x509_certificate(pems.authority)
        except OSError as error:
            raise CodebankError(Code.INVALID, f"{error.filename}: {error.strerror}", hint=_HINT) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CodebankError(Code.INVALID, f"{self.certificate.parent}: {error}", hint=_HINT) from error
        if key.public_key() != certificate.public_key():
            raise CodebankError(Code.INVALID, f"{self.key} is not the key of {self.certificate}", hint=_HINT)
        if certificate.not_valid_after_utc <= datetime.now(UTC):
            raise CodebankError(
                Code.FAILED_PRECONDITION, f"{self.certificate} ended {certificate.not_valid_after_utc}", hint=_HINT
            )
        return pems

    def stamp(self) -> int:
        """Give a number that changes when the certificate is renewed."""
        try:
            return self.certificate.stat().st_mtime_ns
        except OSError:
            return 0


@dataclass(frozen=True, slots=True)
class Pems:
    """What the files of an identity hold."""

    authority: bytes
    certificate: bytes
    key: bytes


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Let in whom the authority vouches for; certificates renewed on disk count from the next connection on."""
    begun = identity.stamp()

    def configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pems.key, pems.certificate)], pems.authority)

    def newest() -> grpc.ServerCertificateConfiguration | None:
        nonlocal begun
        stamp = identity.stamp()
        if stamp == begun:
            return None
        try:
            made = configuration(identity.read())
        except CodebankError as error:
            # Such as a certificate whose key is being written just now: the one before goes on.
            log.warning("the renewed certificate cannot be used: %s", error)
            return None
        begun = stamp
        log.info("the certificate was renewed", extra=fields(certificate=str(identity.certificate)))
        return made

    first = configuration(identity.read())
    # Nothing new is None, whatever the stubs say.
    return grpc.dynamic_ssl_server_credentials(first, newest, require_client_authentication=True)  # type: ignore[arg-type]


def watch_certificates(telemetry: Telemetry, settings: Settings) -> None:
    """Show when the certificates of a role end, as they are on disk whenever the metrics are read."""
    named = {"roles": settings.tls_certificate_file, "kafka": settings.kafka_certificate_file}
    for name, path in named.items():
        if path:
            expiry = functools.partial(_expiry_seconds, Path(path))
            telemetry.gauge("codebank_certificate_expiry_timestamp_seconds", name).set_function(expiry)


def _expiry_seconds(certificate: Path) -> float:
    try:
        return expiry_of(certificate).timestamp()
    except (OSError, ValueError):
        # What cannot be read cannot be shown to anybody: as if it had ended long ago.
        return 0.0


def open_channel(target: str, identity: Identity | None, options: Options = ()) -> grpc.aio.Channel:
    """Open a channel to a role, over TLS where there is an identity."""
    if identity is None:
        return grpc.aio.insecure_channel(target, options=[*options, _DIRECT])
    return grpc.aio.secure_channel(target, _channel_credentials(identity), options=[*options, _DIRECT])


def open_blocking_channel(target: str, identity: Identity | None) -> grpc.Channel:
    """Open a channel for a command that makes one call."""
    if identity is None:
        return grpc.insecure_channel(target, options=[_DIRECT])
    return grpc.secure_channel(target, _channel_credentials(identity), options=[_DIRECT])


def _channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    pems = identity.read()
    return grpc.ssl_channel_credentials(pems.authority, pems.key, pems.certificate)
