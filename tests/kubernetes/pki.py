"""Who is who in a cluster of the tests: an authority, and a certificate and kubeconfig for each part."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

#: Part → its name, and the group that gives it its rights.
CLIENTS: Final = {
    "admin": ("admin", "system:masters"),
    "manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": ("system:node:codebank", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
    "api-to-kubelet": ("api-to-kubelet", "system:masters"),
}
_PEM: Final = serialization.Encoding.PEM
_NOT_LOCKED: Final = serialization.NoEncryption()


def make_identities(folder: Path, server: str, addresses: Sequence[str]) -> None:
    """Write the authority, the servers' and clients' certificates, and a kubeconfig for each client."""
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("cluster", "")
    authority = _begin(subject, subject, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    certificate = authority.sign(key, hashes.SHA256())
    _write(folder, "ca", certificate, key)
    hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "codebank", *addresses]
    for name, common in (("api", "kube-apiserver"), ("kubelet-server", "codebank")):
        _issue(folder, name, _name(common, ""), certificate, key, hosts)
    for name, (common, group) in CLIENTS.items():
        _issue(folder, name, _name(common, group), certificate, key, ())
        (folder / f"{name}.kubeconfig").write_text(_KUBECONFIG.format(folder=folder, server=server, name=name))
    tokens = rsa.generate_private_key(65537, 2048)
    (folder / "tokens.key").write_bytes(_text_of(tokens))
    public = tokens.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "tokens.pub").write_bytes(public)


_KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}", certificate-authority: "{folder}/ca.crt"}}}}]
users: [{{name: u, user: {{client-certificate: "{folder}/{name}.crt", client-key: "{folder}/{name}.key"}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


def _issue(
    folder: Path, name: str, subject: x509.Name, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
) -> None:  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begin(subject, ca.subject, key)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
    _write(folder, name, builder.sign(ca_key, hashes.SHA256()), key)


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
    )


def _name(common: str, group: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    return x509.Name(parts + ([x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []))


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(_PEM))
    (folder / f"{name}.key").write_bytes(_text_of(key))


def _text_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _NOT_LOCKED)
