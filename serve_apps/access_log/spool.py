"""Rows on the local disk before they are Parquet: JSON Lines files, locked by who writes them.

The lock goes with its process, however that ends. So a file that can be locked is complete, whoever wrote it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cluster.config import Settings

_SUFFIX = ".jsonl"


def spool_dir(settings: Settings) -> Path:
    """Where the gateways of this machine keep their spools."""
    return settings.home / "spool" / "access"


class Spool:
    """A file being written. Lines are in it whole or not at all; `size` counts its bytes."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = _created(directory / f"{name}{_SUFFIX}")
        self.size = 0

    def append(self, lines: bytes) -> None:
        """Add whole lines. Raises OSError, and has added nothing then."""
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(lines)

    def close(self) -> None:
        """Complete: from now on it can be locked by others."""
        os.close(self._file)


def complete(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Names and lines of the spools that nobody writes; each is removed once the caller asks for the next."""
    for path in _paths(directory):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if _locked(file.fileno()):
                yield path.stem, _whole_lines(file.read())
                path.unlink()


def any_complete(directory: Path) -> bool:
    """Whether there is a spool that nobody writes."""
    for path in _paths(directory):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if _locked(file.fileno()):
                return True
    return False


def everything(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Names and lines of all spools, those being written too; nothing is changed."""
    for path in _paths(directory):
        with suppress(FileNotFoundError):
            yield path.stem, _whole_lines(path.read_bytes())


def _paths(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{_SUFFIX}"))


def _created(path: Path) -> int:
    while True:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:
            return file
        # Before it was locked, somebody took it for one that was left behind and removed it.
        os.close(file)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]
