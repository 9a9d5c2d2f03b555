"""A renewed certificate reaches the running HAProxy: `python -m cluster.tls.renewal PEM SOCKET`.

HAProxy reads files at its start alone, but takes certificates over its admin socket. Nothing is
reloaded by it, and no connection is cut.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from pathlib import Path

from cluster.errors import ConfigError, ConflictError
from cluster.tls.pair import KeyPair

LOOK_S = 10.0
"""How often the files are looked at."""

_ANSWER_S = 5.0
_PR_SET_PDEATHSIG = 1


def install(pair: KeyPair, pem: Path) -> bool:
    """Bring `pem` up to date, for its owner's eyes alone; whether it changed. Raises ConfigError.

    What is verified is the very text that HAProxy will read.
    """
    text = pair.read()
    if pem.exists() and pem.read_bytes() == text:
        return False
    _verified(pair, text, pem).replace(pem)
    return True


def renew(pair: KeyPair, pem: Path, admin: str) -> bool:
    """Hand a changed pair to the running HAProxy, then keep it as `pem`; whether it had changed."""
    text = pair.read()
    if pem.read_bytes() == text:
        return False
    verified = _verified(pair, text, pem)
    try:
        tell(admin, f"set ssl cert {pem} <<\n{text.decode('ascii')}\n")
        tell(admin, f"commit ssl cert {pem}\n", expected="Success!")
    except BaseException:
        verified.unlink(missing_ok=True)
        raise
    verified.replace(pem)
    return True


def tell(admin: str, command: str, *, expected: str = "Transaction") -> None:
    """Say a command on the admin socket; raises ConflictError unless it answers as `expected`."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        connection.connect(admin)
        connection.sendall(command.encode())
        while part := connection.recv(65536):
            answer += part
    if expected.encode() not in answer:
        said = answer.decode(errors="replace").strip()
        raise ConflictError(f"HAProxy did not take the certificate: {said}", code="tls.not_taken")


def end_with_parent() -> None:
    """For a child that makes no sense without its parent (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def watch(pair: KeyPair, pem: Path, admin: str) -> None:
    """Look for ever; what cannot be used is told once and leaves the former certificate in force."""
    told = ""
    while True:
        time.sleep(LOOK_S)
        try:
            if renew(pair, pem, admin):
                told = _say(f"The certificate in {pair.certfile} is in force.", "")
        except (ConfigError, ConflictError, OSError) as error:
            told = _say(f"The certificate is not renewed: {error}", told)


def _say(what: str, told: str) -> str:
    if what != told:
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()
    return what


def _verified(pair: KeyPair, text: bytes, pem: Path) -> Path:
    beside = pem.with_name(f"{pem.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as writer:
        writer.write(text)
    try:
        pair.verify(beside, beside)
    except ConfigError:
        beside.unlink()
        raise
    return beside


if __name__ == "__main__":
    found = KeyPair.of(os.environ)
    if found is not None:
        watch(found, Path(sys.argv[1]), sys.argv[2])
