"""The last step: no more calls, everything down, nothing left."""

from __future__ import annotations

import contextlib
import time
from urllib.parse import urlsplit

import psutil

from cluster.demo.state import Demo
from cluster.doctor.ports import is_taken
from cluster.errors import LinnetError

_END_S = 15.0


def stop_client(demo: Demo) -> None:
    """Let what is under way come to its end, and count."""
    assert demo.client is not None
    demo.client.stop()
    failed = [answer for answer in demo.answers() if answer.error]
    demo.teller.say(f"{len(demo.answers())} requests in all, {len(failed)} failed")
    for answer in failed[:5]:
        demo.teller.say(f"failed: {answer.error}")


def take_down(demo: Demo) -> None:
    """Raises LinnetError `demo.left_behind` when a process or the port outlives the cluster."""
    below = _descendants(demo.guard_pid)
    demo.commands.linnet("down")
    port = urlsplit(demo.serve_url).port or 80
    require_gone(below, port)
    demo.teller.say(f"all {len(below)} processes of the cluster have ended, port {port} is free")


def require_gone(processes: list[psutil.Process], port: int) -> None:
    """Raise LinnetError `demo.left_behind` unless all have ended and the port is free, soon."""
    _, alive = psutil.wait_procs(processes, timeout=_END_S)
    end = time.monotonic() + _END_S
    while is_taken(port) and time.monotonic() < end:
        time.sleep(0.2)
    left = [f"pid {process.pid}" for process in alive if _lives(process)]
    left += [f"a listener on port {port}"] if is_taken(port) else []
    if left:
        raise LinnetError(
            f"`linnet down` left behind: {', '.join(left)}.",
            code="demo.left_behind",
            hint="`linnet doctor` names what holds a port; end those processes.",
        )


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        guard = psutil.Process(pid)
        return [guard, *guard.children(recursive=True)]
    return []


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
