"""An authority of the installation's own, and a certificate for each of its parts: `codebank certs`.

Made for development and for one machine. The authority's key is needed only here, so it may lie where no role sees it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from codebank.errors import Code, CodebankError
from codebank.runtime.files import alone_in, make_private_folder, write_atomically
from codebank.settings import ROLE_NAMES

#: Who gets a certificate in any case.
NAMES: Final = (*ROLE_NAMES, "postgres", "kafka")
_AUTHORITY_DAYS: Final = 5 * 365
_LEAF_DAYS: Final = 90
_RENEWED_UNDER_DAYS: Final = 30
_AUTHORITY_NAME: Final = "Codebank's own authority"
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(
    folder: Path, authority: Path, hosts: Mapping[str, Sequence[str]], owner: int | None, now: datetime
) -> dict[str, str]:
    """Make what is missing or ends soon, and tell of each name whether it was made or kept.

    `hosts` are further names of each part's machine. `folder` gets `ca.crt` and NAME/tls.crt, NAME/tls.key;
    `authority` gets the authority's key. Safe to repeat, and while another does the same.

    Raises CodebankError where both are one folder: roles see the first, and nobody should see the second.
    """
    if folder.resolve() == authority.resolve():
        raise CodebankError(Code.INVALID, f"{authority}: the authority's key needs a folder that no role sees")
    with alone_in(folder, owner), alone_in(authority, owner):
        ca, did = _authority(authority, owner, now)
        told = {"ca": did}
        _write(folder / "ca.crt", ca.certificate.public_bytes(_PEM), 0o644, owner)
        for name, more in hosts.items():
            wanted = tuple(dict.fromkeys((name, *_HERE, *more)))
            place = folder / name
            if _is_fresh(place, ca, wanted, now):
                told[name] = "kept"
                continue
            pair = _issue(name, wanted, ca, now)
            make_private_folder(place, owner)
            _write(place / "tls.key", _text_of(pair.key), 0o600, owner)
            _write(place / "tls.crt", pair.certificate.public_bytes(_PEM), 0o644, owner)
            told[name] = "made"
        return told


def hosts_of(named: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read `NAME` or `NAME:HOST,HOST` of each; the usual names come in any case.

    Raises CodebankError for a name that is none.
    """
    found: dict[str, tuple[str, ...]] = {name: () for name in NAMES}
    for text in named:
        name, _, hosts = text.partition(":")
        listed = tuple(host.strip() for host in hosts.split(",") if host.strip())
        if not name or not all(character.isalnum() or character == "-" for character in name):
            raise CodebankError(
                Code.INVALID, f"{text!r} is no name", hint="such as `connect`, or `kafka:kafka-1,kafka-2`"
            )
        found[name] = (*found.get(name, ()), *listed)
    return found


def expiry_of(certificate: Path) -> datetime:
    """Tell when a certificate ends. Raises OSError or ValueError where it cannot be read."""
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _authority(folder: Path, owner: int | None, now: datetime) -> tuple[_Pair, str]:
    kept = _read(folder / "ca.crt", folder / "ca.key")
    # No certificate may outlive the authority that vouches for it.
    if kept is not None and kept.certificate.not_valid_after_utc > now + timedelta(days=_LEAF_DAYS):
        return kept, "kept"
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_AUTHORITY_NAME, _AUTHORITY_NAME, key, key, now, _AUTHORITY_DAYS)
    usage = _usage(signs_certificates=True)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / "ca.key", _text_of(key), 0o600, owner)
    _write(folder / "ca.crt", certificate.public_bytes(_PEM), 0o644, owner)
    return _Pair(certificate, key), "made"


def _issue(name: str, hosts: Sequence[str], ca: _Pair, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(name, _AUTHORITY_NAME, key, ca.key, now, _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        # Each part may call and be called.
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _builder(
    name: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks of two machines may differ a little.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _is_fresh(place: Path, ca: _Pair, hosts: Sequence[str], now: datetime) -> bool:
    kept = _read(place / "tls.crt", place / "tls.key")
    if kept is None or kept.certificate.not_valid_after_utc < now + timedelta(days=_RENEWED_UNDER_DAYS):
        return False
    try:
        kept.certificate.verify_directly_issued_by(ca.certificate)
    except Exception:  # whatever is wrong with it: a new one is made
        return False
    names = kept.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return list(names) == [_host(host) for host in hosts]


def _read(certificate: Path, key: Path) -> _Pair | None:
    """Read a pair; None where there is none, or a part of one, or one that does not fit together."""
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        own = serialization.load_pem_private_key(key.read_bytes(), None)
    except FileNotFoundError:
        return None
    except ValueError:
        return None
    if not isinstance(own, ec.EllipticCurvePrivateKey) or own.public_key() != read.public_key():
        return None
    return _Pair(read, own)


def _text_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int, owner: int | None) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    write_atomically(path, content, mode, owner)
