"""The process that owns an embedded Ray cluster: `python -m cluster.guard TEMP_DIR COMMAND…`.

It is a child subreaper (Linux), so whatever Ray's processes leave behind becomes its child;
when it is told to stop, or Ray ends by itself, it ends every descendant.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

from cluster import descendants

# Ray drains its node for up to 30 s on SIGTERM; nobody who says `down` waits for that.
_GRACE_S = 5.0


def main(temp_dir: str, command: list[str]) -> int:
    """Run `command` until it ends or a signal comes; leave no descendant behind."""
    descendants.adopt_orphans()
    os.environ["LINNET_CLUSTER_DIR"] = temp_dir
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    child = subprocess.Popen(command, preexec_fn=descendants.end_with_parent)  # noqa: PLW1509
    while not stopping and child.poll() is None:
        descendants.reap_orphans(child.pid)
        time.sleep(0.1)
    _end_descendants(child)
    shutil.rmtree(temp_dir, ignore_errors=True)
    return 0 if stopping else (child.returncode or 0)


def _end_descendants(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the child, a bounded wait, then SIGKILL until nobody is left."""
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    descendants.kill_all(_GRACE_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
