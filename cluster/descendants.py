"""Processes below this one, orphans among them: adopted, reaped, ended (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1


def adopt_orphans() -> None:
    """From now on, whatever is orphaned below this process becomes its child."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """The kernel sends this process SIGTERM when its parent ends, however that ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def reap() -> Iterator[tuple[int, int]]:
    """Pids and return codes, negative for a signal, of the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def reap_orphans(but: int) -> None:
    """Collect the children that have ended, so that they do not stay as zombies, except `but`."""
    for process in psutil.Process().children():
        if process.pid == but:
            continue
        with contextlib.suppress(ChildProcessError, psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def kill_all(within_s: float) -> None:
    """SIGKILL, again and again, until nobody is left below this process or the time is over."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        reap_orphans(-1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
