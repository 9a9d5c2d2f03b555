"""Cores, memory, shared memory and disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

from cluster.config import Settings
from cluster.doctor.check import GIB, Check, graded

# One replica of a 135M-parameter model takes about 4 GiB; two of them and Ray take 10.
_MEMORY_ENOUGH, _MEMORY_LEAST = 10 * GIB, 6 * GIB
_SHARED_ENOUGH = 2 * GIB
_DISK_ENOUGH, _DISK_LEAST = 10 * GIB, 3 * GIB
# Ray stops writing objects to a disk that is fuller than this.
_RAY_DISK_LIMIT = 0.95

_CGROUP = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")
_RAY_TEMP = Path("/tmp")


def examine(settings: Settings) -> list[Check]:
    """The machine's resources, as this process is allowed to use them."""
    checks = [
        check_cores(
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ),
        check_memory(available_memory()),
        check_shared_memory(shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None),
    ]
    places = {"disk (root)": _local_root(settings), "disk (Ray)": _RAY_TEMP}
    for name, place in places.items():
        usage = shutil.disk_usage(_existing(place))
        checks.append(check_disk(name, usage.free, usage.total))
    return checks


def _local_root(settings: Settings) -> Path:
    root = settings.root.removeprefix("file://")
    return settings.home if "://" in root else Path(root).expanduser().resolve()


def available_memory() -> int:
    """Bytes that may still be used: the machine's, or a container's where that is less."""
    available = psutil.virtual_memory().available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return min(available, max(0, limit - used))


def check_cores(cores: int) -> Check:
    """Two workers train at the same time."""
    return graded(
        "cores", str(cores), warns="training and serving will take turns on it" if cores < 2 else ""
    )


def check_memory(available: int) -> Check:
    """Room for two replicas and Ray."""
    found = f"{available / GIB:.1f} GiB available"
    mend = f"close what uses it; two replicas and Ray take {_MEMORY_ENOUGH // GIB} GiB"
    return graded(
        "memory",
        found,
        fails=mend if available < _MEMORY_LEAST else "",
        warns=mend if available < _MEMORY_ENOUGH else "",
    )


def check_shared_memory(free: int | None) -> Check:
    """Ray keeps its objects there, and falls back to slow files when it is small."""
    found = "no /dev/shm" if free is None else f"{free / GIB:.1f} GiB free in /dev/shm"
    small = free is None or free < _SHARED_ENOUGH
    mend = "give it 2 GiB or more (docker run --shm-size=4g); Ray uses slower files meanwhile"
    return graded("shared memory", found, warns=mend if small else "")


def check_disk(name: str, free: int, total: int) -> Check:
    """Room for versions and checkpoints, and below the fullness at which Ray stops."""
    full = 1 - free / total if total else 1.0
    mend = "free some room (`linnet models gc`), or set LINNET_HOME to a larger disk"
    return graded(
        name,
        f"{free / GIB:.1f} GiB free, {full:.0%} used",
        fails=mend if free < _DISK_LEAST or full > _RAY_DISK_LIMIT else "",
        warns=mend if free < _DISK_ENOUGH else "",
    )


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())
