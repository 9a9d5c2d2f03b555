"""Whether the endpoint's certificate holds, and whether the endpoint shows it."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from cluster import runtime
from cluster.config import Settings
from cluster.doctor.check import Check, graded
from cluster.errors import ConfigError
from cluster.tls.pair import KeyPair

_NAME = "certificate"
_SOON = timedelta(days=14)
_ANSWER_S = 2.0


def examine(settings: Settings) -> list[Check]:
    """One check where the endpoint speaks HTTPS, by `linnet up` or by the environment; else none."""
    cluster = runtime.current(settings)
    try:
        pair = cluster.pair if cluster else KeyPair.of(os.environ)
    except ConfigError as error:
        return [graded(_NAME, error.message, fails=error.hint)]
    if pair is None:
        return []
    return [check_pair(pair, cluster.serve_url if cluster else None, datetime.now(UTC))]


def check_pair(pair: KeyPair, url: str | None, now: datetime) -> Check:
    """The files are a pair that holds a while longer; where something listens at `url`, it shows it."""
    try:
        leaf = pair.check(now)
    except ConfigError as error:
        return graded(_NAME, error.message, fails=error.hint or "name files that OpenSSL can use")
    found = f"{pair.certfile} is for {', '.join(leaf.names)} until {leaf.expires:%Y-%m-%d}"
    shown = _shown(url)
    if shown and shown != pair.first():
        mend = (
            "look into HAProxy's error log (*.stderr.log beside its configuration), or start the cluster anew"
        )
        return graded(_NAME, f"{found}, but {url} shows another", warns=mend)
    if leaf.expires - now < _SOON:
        return graded(_NAME, found, warns="renew it; the endpoint takes new files by itself")
    return graded(_NAME, f"{found}, shown at {url}" if shown else found)


def _shown(url: str | None) -> bytes:
    """The certificate that is shown at a URL; empty where nothing speaks TLS."""
    if url is None:
        return b""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or 443)
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(address, timeout=_ANSWER_S))
    except OSError:
        return b""
