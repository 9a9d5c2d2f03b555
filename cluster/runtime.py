"""Start, attach to and stop Ray: embedded on this machine, or a cluster that stands.

`up` starts a guard process (cluster/guard.py) that owns the whole Ray tree, and below it a keeper
(cluster/keeper.py) that starts again what is killed of the head node; `down` ends the guard and all
below it, engine processes that outlived their replica included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from cluster import head
from cluster.config import Settings, StrictModel
from cluster.errors import (
    ConflictError,
    EnvironmentSetupError,
    IntegrityError,
    NotFoundError,
    TimedOutError,
)
from cluster.leftovers import sweep
from cluster.tls.pair import KeyPair

GCS_PORT, DASHBOARD_PORT, SERVE_PORT = 6390, 8265, 8000
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
_STARTED = "Ray runtime started"

# A guard outlives the command that starts it; dropping its handle would warn that it still runs.
_guards: list[subprocess.Popen[bytes]] = []


class ClusterInfo(StrictModel):
    """What `up` wrote down; `guard_started` tells a reused pid from the real guard."""

    guard_pid: int
    guard_started: float
    address: str
    dashboard_url: str
    serve_url: str
    temp_dir: str
    log_file: str
    num_cpus: float
    auth_mode: str
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What `ray`, `serve` and drivers need to find this cluster."""
        return {
            "RAY_AUTH_MODE": self.auth_mode,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_DASHBOARD_ADDRESS": self.dashboard_url,
        }

    @property
    def pair(self) -> KeyPair | None:
        """The files that the endpoint speaks HTTPS with."""
        return KeyPair.given(self.ssl_certfile, self.ssl_keyfile)


def up(
    settings: Settings,
    *,
    num_cpus: float | None = None,
    gcs_port: int = GCS_PORT,
    dashboard_port: int = DASHBOARD_PORT,
    serve_port: int = SERVE_PORT,
    pair: KeyPair | None = None,
) -> ClusterInfo:
    """Start a head node on this machine and return once its dashboard answers.

    With a `pair` the endpoint speaks HTTPS. Raises ConfigError for a pair that is none,
    ConflictError while one runs, EnvironmentSetupError for a port in use, and TimedOutError, with
    the end of the log, when Ray does not come up.
    """
    if pair is not None:
        pair.check()
    with _exclusive(settings.home):
        running = current(settings)
        if running is not None:
            raise ConflictError(
                f"A cluster already runs here ({running.address}, pid {running.guard_pid}).",
                code="cluster.running",
                hint="`linnet down` stops it.",
            )
        _clear_away(settings.home)
        for name, port in (("GCS", gcs_port), ("dashboard", dashboard_port), ("endpoint", serve_port)):
            head.require_free(port, name)
        ports = (gcs_port, dashboard_port, serve_port)
        return _start(settings, num_cpus or default_cpus(), ports, pair)


def down(settings: Settings) -> list[int]:
    """Stop the cluster that `up` started; returns the pids that had to be killed.

    Raises NotFoundError when none was started from this home.
    """
    path = _info_path(settings.home)
    if not path.exists():
        raise NotFoundError(
            f"No cluster was started from {settings.home}.",
            code="cluster.not_running",
            hint="`linnet up` starts one.",
        )
    guard = _guard_process(_read_info(path))
    if guard is not None:
        guard.send_signal(signal.SIGTERM)
        try:
            guard.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            guard.kill()
    killed = _clear_away(settings.home)
    for started in _guards:
        started.poll()
    return killed


def _clear_away(home: Path) -> list[int]:
    """Processes and files of a cluster without a guard, if there are; the pids that had to be killed."""
    path = _info_path(home)
    if not path.exists():
        return []
    temp_dir = _read_info(path).temp_dir
    killed = sweep(temp_dir)
    shutil.rmtree(temp_dir, ignore_errors=True)
    path.unlink(missing_ok=True)
    return killed


def current(settings: Settings) -> ClusterInfo | None:
    """The cluster that `up` started from this home, if its guard lives."""
    path = _info_path(settings.home)
    if not path.exists():
        return None
    info = _read_info(path)
    return info if _guard_process(info) is not None else None


def default_cpus() -> float:
    """Logical CPUs to offer: at least 4, since an engine or a training worker wants one each.

    On a machine with fewer cores they share; that is slower, but everything can be placed.
    """
    return float(max(os.cpu_count() or 1, 4))


def attach(settings: Settings | None = None) -> None:
    """Connect this process to Ray: RAY_ADDRESS, else the cluster of `up`, else one of its own.

    A cluster of its own ends with this process.
    """
    known = current(settings or Settings.load())
    if known is not None:
        # Ray reads this when it is first imported.
        os.environ.setdefault("RAY_AUTH_MODE", known.auth_mode)
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, configure_logging=False)
        return
    if known is not None:
        ray.init(address=known.address, log_to_driver=False, configure_logging=False)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        # Without an address Ray follows a file that a cluster long gone may have left.
        address="local",
        num_cpus=int(default_cpus()),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


def _start(
    settings: Settings, num_cpus: float, ports: tuple[int, int, int], pair: KeyPair | None
) -> ClusterInfo:
    gcs_port, dashboard_port, serve_port = ports
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log_file = logs / "cluster.log"
    # Unix socket paths have room for 107 characters, so Ray's directory is a short one.
    temp_dir = tempfile.mkdtemp(prefix="linnet-", dir="/tmp")
    auth_mode = os.environ.get("RAY_AUTH_MODE", "token")
    if auth_mode == "token":
        head.ensure_token()
    agent_port = head.free_port()
    command = head.ray_command(num_cpus, gcs_port, dashboard_port, agent_port, temp_dir)
    with log_file.open("wb") as log:
        guard = subprocess.Popen(
            [*head.module("guard"), temp_dir, *head.module("keeper"), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=head.environment(settings, auth_mode, temp_dir, pair),
        )
    _guards.append(guard)
    info = ClusterInfo(
        guard_pid=guard.pid,
        guard_started=psutil.Process(guard.pid).create_time(),
        address=f"{head.HOST}:{gcs_port}",
        dashboard_url=f"http://{head.HOST}:{dashboard_port}",
        serve_url=f"{'https' if pair else 'http'}://{head.HOST}:{serve_port}",
        temp_dir=temp_dir,
        log_file=str(log_file),
        num_cpus=num_cpus,
        auth_mode=auth_mode,
        ssl_certfile=str(pair.certfile) if pair else None,
        ssl_keyfile=str(pair.keyfile) if pair else None,
    )
    _write_info(settings.home, info)
    try:
        _wait_until_up(guard, info, agent_port)
    except BaseException:
        down(settings)
        raise
    return info


def _wait_until_up(guard: subprocess.Popen[bytes], info: ClusterInfo, agent_port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if guard.poll() is not None:
            raise EnvironmentSetupError(
                f"Ray ended while starting: {head.last_line(info.log_file)}",
                code="cluster.start_failed", hint=f"The whole log is in {info.log_file}.",
            )  # fmt: skip
        started = _STARTED in Path(info.log_file).read_text(errors="replace")
        if started and head.answers(info.dashboard_url) and head.listens(agent_port):
            return
        time.sleep(0.1)
    raise TimedOutError(
        f"Ray's dashboard did not answer within {START_TIMEOUT_S:.0f} s: {head.last_line(info.log_file)}",
        code="cluster.start_timeout", hint=f"The whole log is in {info.log_file}.",
    )  # fmt: skip


def _guard_process(info: ClusterInfo) -> psutil.Process | None:
    try:
        process = psutil.Process(info.guard_pid)
        same = abs(process.create_time() - info.guard_started) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _info_path(home: Path) -> Path:
    return home / "run" / "cluster.json"


def _read_info(path: Path) -> ClusterInfo:
    try:
        return ClusterInfo.model_validate_json(path.read_text())
    except ValidationError:
        raise IntegrityError(
            f"`{path}` does not describe a cluster of this version of Linnet.",
            code="cluster.record_unreadable",
            hint="End the process that its `guard_pid` names, then remove the file.",
        ) from None


def _write_info(home: Path, info: ClusterInfo) -> None:
    path = _info_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(info.model_dump(mode="json"), indent=2))
    beside.replace(path)


@contextlib.contextmanager
def _exclusive(home: Path) -> Iterator[Any]:
    path = home / "run" / "cluster.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "Another `linnet up` is starting a cluster here.",
                code="cluster.starting",
                hint="Wait for it to end.",
                retryable=True,
            ) from None
        yield handle
