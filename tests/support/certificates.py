"""Certificates for tests, made on the spot."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cluster.tls.pair import KeyPair

_PEM = serialization.Encoding.PEM


class Authority:
    """Signs for `localhost` and 127.0.0.1; `file` is what a caller trusts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        self.file = directory / "authority.pem"
        own = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None), days=30)
        self.file.write_bytes(own.public_bytes(_PEM))

    def issue(self, name: str, *, days: int = 30, passphrase: bytes | None = None) -> KeyPair:
        """A new certificate, named `name`, and its key in files of that name; overwrites them."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._sign(subject, key.public_key(), names, days=days)
        pair = KeyPair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        hidden = (
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        )
        pair.certfile.write_bytes(certificate.public_bytes(_PEM) + b"\n\n" + self.file.read_bytes())
        pair.keyfile.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, hidden))
        return pair

    def trusting(self) -> ssl.SSLContext:
        """For a caller who trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.file))

    def _sign(self, subject, public_key, extension, *, days: int) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )
