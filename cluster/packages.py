"""Fetching one file of a Python package index with pip, kept in the cache below LINNET_HOME."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cluster.config import Settings
from cluster.errors import EnvironmentSetupError, StorageError, TimedOutError

_DEADLINE_S = 900
_PARTIAL = "partial"


def download_package(requirement: str, *, source_only: bool = False) -> Path:
    """The wheel of `requirement` (`name==version`), or its source archive, without dependencies.

    The file is fetched once; later calls, and calls made at the same time by other processes,
    get the cached one. Only a complete file is ever kept.

    Raises EnvironmentSetupError when pip cannot get it, TimedOutError after 15 minutes and
    StorageError when the cache cannot be written.
    """
    suffix = "-source" if source_only else ""
    shelf = Settings.load().home / "cache" / "packages" / f"{_key(requirement)}{suffix}"
    if kept := _kept(shelf):
        return kept
    with _sole_writer(shelf):
        return _kept(shelf) or _fetch(requirement, shelf, source_only=source_only)


def _key(requirement: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", requirement).strip("._")


def _kept(shelf: Path) -> Path | None:
    if not shelf.is_dir():
        return None
    return next((item for item in sorted(shelf.iterdir()) if item.is_file() and item.name[0] != "."), None)


@contextmanager
def _sole_writer(shelf: Path) -> Iterator[None]:
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        lock = (shelf / ".lock").open("w")
    except OSError as error:
        raise StorageError(
            f"The package cache {shelf} cannot be written: {error.strerror}.",
            code="packages.cache",
            hint="Set LINNET_HOME to a directory that you may write.",
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(requirement: str, shelf: Path, *, source_only: bool) -> Path:
    partial = shelf / _PARTIAL
    # Whoever held the lock before may have been killed in the middle of a download.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _run_pip(_arguments(requirement, partial, source_only=source_only), requirement)
        fetched = next(partial.iterdir())
        os.replace(fetched, shelf / fetched.name)
        return shelf / fetched.name
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _arguments(requirement: str, target: Path, *, source_only: bool) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--retries", "2", "--dest", str(target)]
    if source_only:
        command += ["--no-binary", ":all:"]
        # pip reads a source archive's metadata with setuptools; the one at hand saves fetching another.
        if find_spec("setuptools"):
            command.append("--no-build-isolation")
    else:
        command += ["--only-binary", ":all:"]
    return [*command, "--", requirement]


def _run_pip(command: list[str], requirement: str) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        raise TimedOutError(
            f"pip did not deliver `{requirement}` within {_DEADLINE_S // 60} minutes.",
            code="packages.timeout",
            hint="Run the same command again; check the package index that pip is set to.",
            retryable=True,
        ) from None
    if result.returncode != 0:
        raise EnvironmentSetupError(
            f"pip could not download `{requirement}`: {_last_line(result.stderr)}",
            code="packages.download",
            hint="Check the network and the package index that pip is set to (`pip config list`).",
            retryable=True,
        )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:").strip()
    # An index URL may carry a password.
    return re.sub(r"//[^/\s@]+@", "//", last)
