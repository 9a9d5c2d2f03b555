"""What is left of a cluster whose guard was killed: found by its directory, and ended."""

from __future__ import annotations

import contextlib

import psutil


def sweep(temp_dir: str) -> list[int]:
    """Kill what is left of a cluster whose guard was killed: all that was told its temp dir."""
    marked = [process for process in psutil.process_iter() if _belongs(process, temp_dir)]
    doomed = {child.pid: child for process in marked for child in _tree(process)}
    for process in doomed.values():
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(doomed.values()), timeout=10)
    return sorted(doomed)


def _belongs(process: psutil.Process, temp_dir: str) -> bool:
    try:
        if any(temp_dir in part for part in process.cmdline()):
            return True
        return process.environ().get("LINNET_CLUSTER_DIR") == temp_dir
    except (psutil.Error, OSError):
        return False


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []
