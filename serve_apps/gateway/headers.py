"""Which headers go through the gateway, in either direction."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable

from multidict import CIMultiDict

from serve_apps.adapters.middleware import VERSION_HEADER
from serve_apps.replay.wire import RESUME_TYPE, TELL_HEADER

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The engine gets neither the caller's secrets nor a say of the caller in how Ray Serve treats
# the inner request; without accept-encoding its events arrive as plain text.
_NOT_FORWARDED = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"host",
    b"serve_multiplexed_model_id",
    b"serve-multiplexed-model-id",
    b"x-request-disconnect-disabled",
    b"x-request-id",
    b"x-request-timeout-seconds",
}
# What the server in front writes itself, or what holds for the inner connection only.
_NOT_RETURNED = _HOP_BY_HOP | {b"content-length", b"date", b"server", b"x-request-id"}
# The gateway's own words, to its callers and to its replicas: nobody else may say them.
_OWN = b"x-linnet-"

_RESUME_TYPE = RESUME_TYPE.encode()
_PLAIN_VALUE = re.compile(rb"[\t\x20-\x7e]*").fullmatch
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch


def forwarded(
    headers: Iterable[tuple[bytes, bytes]], request_id: bytes, version: str, *, tell: bool = False
) -> CIMultiDict[str]:
    """Request headers for a replica; a value with bytes outside printable ASCII is left out.

    `version` is the one that is to answer; `tell` asks the replica for the tokens of a stream.
    """
    kept: CIMultiDict[str] = CIMultiDict()
    named = _named_by_connection(headers)
    for name, value in headers:
        dropped = name in _NOT_FORWARDED or name in named or name.startswith(_OWN)
        if not dropped and _PLAIN_VALUE(value) and not _resumes(name, value):
            kept.add(name.decode("latin-1"), value.decode("latin-1"))
    kept["x-request-id"] = request_id.decode("ascii")
    kept[VERSION_HEADER] = version
    if tell:
        kept[TELL_HEADER] = "1"
    return kept


def returned(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Response headers for the caller, names in lower case."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(lowered)
    return [
        (name, value)
        for name, value in lowered
        if name not in _NOT_RETURNED and name not in named and not name.startswith(_OWN)
    ]


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The caller's x-request-id when it is a plain word, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID(value):
            return value
    return uuid.uuid4().hex.encode()


def _resumes(name: bytes, value: bytes) -> bool:
    return name == b"content-type" and value.strip().lower().startswith(_RESUME_TYPE)


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return named
