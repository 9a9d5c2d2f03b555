"""Connections to replicas, which notice a host that is gone.

A process that dies has its connections reset by its host's kernel. A host that dies, or is cut off,
resets nothing: without these settings a stream from it would wait as long as a request may take.
"""

from __future__ import annotations

import socket
from typing import Any

GONE_AFTER_S = 5
"""Without a sign of life on a connection at rest for so long, asked for one each second, the host is gone."""
UNTAKEN_S = 10
"""Nor is what was sent taken for so long by a host that is there, unless its replica stands still."""

_SILENT_S = 2
_EVERY_S = 1

_LINUX_OPTIONS = {
    "TCP_KEEPIDLE": _SILENT_S,
    "TCP_KEEPINTVL": _EVERY_S,
    "TCP_KEEPCNT": (GONE_AFTER_S - _SILENT_S) // _EVERY_S,
    "TCP_USER_TIMEOUT": UNTAKEN_S * 1000,
}


def watched_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for one entry of `getaddrinfo`, as aiohttp's `socket_factory` gets it.

    What a platform has no option for keeps its default there.
    """
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _LINUX_OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
