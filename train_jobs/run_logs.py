"""The log files of a run: the driver's, then those of the last attempt's workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cluster.config import Settings
from cluster.state.database import open_database
from cluster.state.tables import utc_now
from cluster.storage import Storage
from train_jobs import runs
from train_jobs.run_files import RunFiles

_POLL_S = 0.5


def collect(run: str, settings: Settings) -> list[dict[str, str]]:
    """Every line, as `{"log", "line"}`. Raises NotFoundError for an unknown run."""
    _is_active(run, settings)
    files = RunFiles(Storage(settings.root), run)
    return [entry for name in _names(files) for entry in _lines(files, name, 0)[0]]


def stream(run: str, settings: Settings) -> Iterator[dict[str, str]]:
    """What is there and what comes, until the run is no longer active."""
    files, read = RunFiles(Storage(settings.root), run), dict[str, int]()
    active = True
    while active:
        active = _is_active(run, settings)
        for name in _names(files):
            entries, read[name] = _lines(files, name, read.get(name, 0))
            yield from entries
        if active:
            time.sleep(_POLL_S)


def _is_active(run: str, settings: Settings) -> bool:
    with open_database(settings.state_url).snapshot() as session:
        return runs.effective(runs.require(session, run), utc_now())[0] in runs.ACTIVE


def _names(files: RunFiles) -> list[str]:
    last = max((record.attempt for record in files.read_attempts()), default=0)
    found = files.storage.list_files(files.logs, recursive=False)
    return [n for n in found if n == "driver.log"] + [n for n in found if n.startswith(f"attempt_{last}_")]


def _lines(files: RunFiles, name: str, start: int) -> tuple[list[dict[str, str]], int]:
    """Whole lines from the byte `start` on, and the byte after the last of them."""
    unread = files.storage.read_bytes(f"{files.logs}/{name}")[start:]
    whole = unread[: unread.rfind(b"\n") + 1]
    lines = whole.decode(errors="replace").splitlines()
    return [{"log": name, "line": line} for line in lines], start + len(whole)
