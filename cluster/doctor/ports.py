"""The ports that a cluster on this machine takes: free, its own, or somebody else's."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path

import psutil

from cluster import head, runtime
from cluster.config import Settings, StrictModel
from cluster.doctor.check import Check, graded

PORTS = {
    "endpoint": (runtime.SERVE_PORT, "--serve-port"),
    "dashboard": (runtime.DASHBOARD_PORT, "--dashboard-port"),
    "GCS": (runtime.GCS_PORT, "--gcs-port"),
}
_RAY_PROCESSES = ("gcs_server", "raylet", "ray::", "ray/dashboard", "haproxy")


class Holder(StrictModel):
    """Who listens on a port; `pid` is None where the system does not tell."""

    pid: int | None
    command: str = ""
    ours: bool = False

    def __str__(self) -> str:
        words = (Path(word).name if word.startswith("/") else word for word in self.command.split())
        return f"pid {self.pid} ({' '.join(words)[:40]})" if self.pid else "a process of another user"


def examine(settings: Settings) -> list[Check]:
    """One check for each port that `linnet up` takes."""
    cluster = runtime.current(settings)
    guard = cluster.guard_pid if cluster else None
    return [
        check_port(name, port, flag, holder_of(port, guard) if is_taken(port) else None)
        for name, (port, flag) in PORTS.items()
    ]


def check_port(name: str, port: int, flag: str, holder: Holder | None) -> Check:
    """Free or held by our cluster passes; another Ray is a warning, anything else fails."""
    name = f"port {port} ({name})"
    if holder is None:
        return graded(name, "free")
    if holder.ours:
        return graded(name, "held by the cluster of `linnet up`")
    found = f"held by {holder}"
    mend = f"end that process, or choose another port (linnet up {flag})"
    if any(mark in holder.command for mark in _RAY_PROCESSES):
        return graded(name, found, warns=f"that is another Ray: set RAY_ADDRESS to use it, or {mend}")
    return graded(name, found, fails=mend)


def is_taken(port: int) -> bool:
    """Whether a listener on this machine would be refused the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((head.HOST, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def holder_of(port: int, guard_pid: int | None) -> Holder:
    """The listener on `port`; `ours` when it descends from the process `guard_pid`."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            listening = connection.status == psutil.CONN_LISTEN and connection.pid
            if listening and connection.laddr and connection.laddr.port == port:
                return _describe(psutil.Process(connection.pid), guard_pid)
    return Holder(pid=None)


def _describe(process: psutil.Process, guard_pid: int | None) -> Holder:
    lineage = {process.pid, *(parent.pid for parent in process.parents())}
    command = " ".join(process.cmdline()) or process.name()
    return Holder(pid=process.pid, command=command, ours=guard_pid in lineage)
