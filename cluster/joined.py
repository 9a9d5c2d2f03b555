"""Whether Ray may go on as it runs on a worker host: `python -m cluster.joined HEAD:PORT`, exit code 0 if so.

An autoscaler that has just started knows of no worker yet, and starts Ray anew on each, which ends all that
the host serves. It has started because a head came back, or because it was killed itself. A raylet that the
head takes for alive may stay, unless it was started with other settings or from other sources.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster import gcs_nodes

PATIENCE_S = 60.0
"""How long the head may take to hear of a raylet that waits for it."""
_PAUSE_S = 1.0
_SETTINGS = ("LINNET_", "RAY_")
_MADE_HERE = {".venv", "__pycache__", ".git"}


@dataclass(frozen=True)
class Raylet:
    """The raylet of this host; `started_at` in seconds since the epoch."""

    node_id: str
    started_at: float
    environ: Mapping[str, str]


def find() -> Raylet | None:
    """The one that runs here, the newest of several; None where there is none."""
    found = [raylet for process in psutil.process_iter() if (raylet := _read(process)) is not None]
    return max(found, key=lambda raylet: raylet.started_at, default=None)


def _read(process: psutil.Process) -> Raylet | None:
    try:
        program, *flags = process.cmdline() or [""]
        if Path(program).name != "raylet" or process.status() == psutil.STATUS_ZOMBIE:
            return None
        ids = [flag.partition("=")[2] for flag in flags if flag.startswith("--node_id=")]
        return Raylet(ids[0], process.create_time(), process.environ()) if ids else None
    except psutil.Error:
        return None


def changed(raylet: Raylet, environ: Mapping[str, str], sources_at: float) -> str | None:
    """What has changed since it was started, by name, or None. A setting that is gone is not seen."""
    for name, value in environ.items():
        if name.startswith(_SETTINGS) and raylet.environ.get(name) != value:
            return name
    return "the checkout" if sources_at > raylet.started_at else None


def sources_at(checkout: Path) -> float:
    """When a file of the checkout was last written here, in seconds since the epoch.

    By the time of the change: what rsync copies keeps the time of modification that it had elsewhere.
    """
    return max(_written_at(checkout), default=0.0)


def _written_at(checkout: Path) -> Iterator[float]:
    for directory, names, files in os.walk(checkout):
        names[:] = [name for name in names if name not in _MADE_HERE]
        for name in files:
            # One that rsync has just put in place of another is gone under its first name.
            with contextlib.suppress(FileNotFoundError):
                yield Path(directory, name).lstat().st_ctime


def is_alive_to(head: str, node_id: str, *, patience_s: float, look: Callable[[str], set[str]]) -> bool:
    """Whether the head takes the node for alive, now or within the patience."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if node_id in look(head):
                return True
        except ConnectionError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_S)


def why_anew(head: str) -> str | None:
    """Why Ray is to be started anew here; None where it has joined that head and goes on."""
    raylet = find()
    if raylet is None:
        return "no raylet runs here"
    if (what := changed(raylet, os.environ, sources_at(Path(__file__).parents[1]))) is not None:
        return f"{what} has changed since the raylet was started"
    if not is_alive_to(head, raylet.node_id, patience_s=PATIENCE_S, look=gcs_nodes.alive):
        return f"the head at {head} does not take the raylet for alive"
    return None


def main(head: str) -> int:
    """Says what was found."""
    why = why_anew(head)
    sys.stdout.write(f"Ray goes on, joined to {head}\n" if why is None else f"Ray is started: {why}\n")
    return int(why is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
