"""The process that owns an embedded Ray cluster: `python -m cluster.guard TEMP_DIR COMMAND…`.

It is a child subreaper (Linux), so whatever Ray's processes leave behind becomes its child;
when it is told to stop, or Ray ends by itself, it ends every descendant.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
# Ray drains its node for up to 30 s on SIGTERM; nobody who says `down` waits for that.
_GRACE_S = 5.0


def main(temp_dir: str, command: list[str]) -> int:
    """Run `command` until it ends or a signal comes; leave no descendant behind."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.environ["LINNET_CLUSTER_DIR"] = temp_dir
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    child = subprocess.Popen(command, preexec_fn=_end_with_guard)  # noqa: PLW1509
    while not stopping and child.poll() is None:
        _reap_adopted(child.pid)
        time.sleep(0.1)
    _end_descendants(child)
    shutil.rmtree(temp_dir, ignore_errors=True)
    return 0 if stopping else (child.returncode or 0)


def _end_with_guard() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _reap_adopted(child_pid: int) -> None:
    """Collect orphans that ended, so that they do not stay as zombies."""
    for process in psutil.Process().children():
        if process.pid == child_pid:
            continue
        with contextlib.suppress(ChildProcessError, psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _end_descendants(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to Ray, a bounded wait, then SIGKILL until nobody is left."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        left = psutil.Process().children(recursive=True)
        if not left:
            return
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
        _reap_adopted(-1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
