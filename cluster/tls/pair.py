"""A certificate and its key, in PEM files: whether they are there, readable, and belong together."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.errors import ConfigError

CERTFILE, KEYFILE = "LINNET_SSL_CERTFILE", "LINNET_SSL_KEYFILE"
"""Where everything in a cluster finds the two files."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate says of itself."""

    names: tuple[str, ...]
    begins: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`certfile` holds the certificate and then those that lead from it to its authority."""

    certfile: Path
    keyfile: Path

    @classmethod
    def given(cls, certfile: str | None, keyfile: str | None) -> KeyPair | None:
        """None where neither file is named; raises ConfigError where only one is."""
        if certfile is None and keyfile is None:
            return None
        if certfile is None or keyfile is None:
            raise ConfigError(
                "HTTPS needs a certificate and its key; only one of the two files was named.",
                code="tls.half",
                hint=f"Give both, as --ssl-certfile and --ssl-keyfile or as {CERTFILE} and {KEYFILE}.",
            )
        return cls(Path(certfile).expanduser().absolute(), Path(keyfile).expanduser().absolute())

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> KeyPair | None:
        """What the environment names."""
        return cls.given(environment.get(CERTFILE) or None, environment.get(KEYFILE) or None)

    @property
    def environment(self) -> dict[str, str]:
        """The counterpart of `of`."""
        return {CERTFILE: str(self.certfile), KEYFILE: str(self.keyfile)}

    def read(self) -> bytes:
        """Both in one text, as HAProxy takes them; raises ConfigError for what is no pair."""
        chain = _CERTIFICATE.findall(_read(self.certfile))
        if not chain:
            raise _not_pem(self.certfile, "certificate")
        key = _KEY.search(_read(self.keyfile))
        if key is None:
            raise _not_pem(self.keyfile, "private key")
        if b"ENCRYPTED" in key[0]:
            raise ConfigError(
                f"The key in `{self.keyfile}` is encrypted, and there is nobody to type its passphrase.",
                code="tls.encrypted_key",
                hint="Write it without one (`openssl pkey -in KEY -out FILE`), readable by this user alone.",
            )
        lines = b"\n".join([*chain, key[0]]).splitlines()
        return b"".join(line.strip() + b"\n" for line in lines if line.strip())

    def first(self) -> bytes:
        """The certificate itself, in DER."""
        return ssl.PEM_cert_to_DER_cert(_CERTIFICATE.findall(self.read())[0].decode("ascii"))

    def check(self, now: datetime | None = None) -> Leaf:
        """Raise ConfigError unless both are there, belong together and hold today."""
        self.read()
        self.verify(self.certfile, self.keyfile)
        leaf = read_leaf(self.certfile)
        now = now or datetime.now(UTC)
        if not leaf.begins <= now <= leaf.expires:
            dates = f"from {leaf.begins:%Y-%m-%d} to {leaf.expires:%Y-%m-%d}"
            raise ConfigError(
                f"The certificate in `{self.certfile}` holds {dates}, which is not now.",
                code="tls.expired",
                hint="Renew it, or set this machine's clock.",
            )
        return leaf

    def verify(self, certfile: Path, keyfile: Path) -> None:
        """Raise ConfigError unless OpenSSL takes the pair, or a copy of it, for what it should be."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"The key in `{self.keyfile}` is not that of the certificate in `{self.certfile}`.",
                    code="tls.mismatch",
                    hint="Name two files of one issue; before its chain comes the certificate itself.",
                ) from None
            raise ConfigError(
                f"OpenSSL cannot use `{self.certfile}` with `{self.keyfile}`: {error.reason or error}.",
                code="tls.unusable",
            ) from None


def read_leaf(certfile: Path) -> Leaf:
    """Names and dates of the first certificate of a file."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(certfile.read_bytes())
    names: tuple[str, ...] = ()
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = (
            *found.get_values_for_type(x509.DNSName),
            *map(str, found.get_values_for_type(x509.IPAddress)),
        )
    except x509.ExtensionNotFound:
        pass
    return Leaf(names, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _not_pem(file: Path, what: str) -> ConfigError:
    return ConfigError(
        f"`{file}` holds no {what} in PEM.",
        code="tls.not_pem",
        hint="One file is to hold the certificate, the other its key, both in PEM.",
    )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"`{file}` cannot be read: {os.strerror(error.errno or 0)}.",
            code="tls.unreadable",
            hint="Name a file that this user may read, on every host of the cluster.",
        ) from None
