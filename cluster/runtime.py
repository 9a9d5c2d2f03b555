"""Start, attach to and stop Ray: embedded on this machine, or a cluster that stands.

`up` starts a guard process (cluster/guard.py) that owns the whole Ray tree; `down` ends it
and all below it, engine processes that outlived their replica included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from cluster.config import Settings, StrictModel
from cluster.errors import (
    ConflictError,
    EnvironmentSetupError,
    IntegrityError,
    NotFoundError,
    TimedOutError,
)

HOST = "127.0.0.1"
GCS_PORT, DASHBOARD_PORT, SERVE_PORT = 6390, 8265, 8000
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
_STARTED = "Ray runtime started"

# A guard outlives the command that starts it; dropping its handle would warn that it still runs.
_guards: list[subprocess.Popen[bytes]] = []

# Ray Serve settings that the endpoint relies on; everything in the cluster inherits them.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


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

    @property
    def environment(self) -> dict[str, str]:
        """What `ray`, `serve` and drivers need to find this cluster."""
        return {
            "RAY_AUTH_MODE": self.auth_mode,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_DASHBOARD_ADDRESS": self.dashboard_url,
        }


def up(
    settings: Settings,
    *,
    num_cpus: float | None = None,
    gcs_port: int = GCS_PORT,
    dashboard_port: int = DASHBOARD_PORT,
    serve_port: int = SERVE_PORT,
) -> ClusterInfo:
    """Start a head node on this machine and return once its dashboard answers.

    Raises ConflictError while one runs, EnvironmentSetupError for a port in use, and
    TimedOutError, with the end of the log, when Ray does not come up.
    """
    with _exclusive(settings.home):
        running = current(settings)
        if running is not None:
            raise ConflictError(
                f"A cluster already runs here ({running.address}, pid {running.guard_pid}).",
                code="cluster.running",
                hint="`linnet down` stops it.",
            )
        for name, port in (("GCS", gcs_port), ("dashboard", dashboard_port), ("endpoint", serve_port)):
            _require_free(port, name)
        return _start(settings, num_cpus or default_cpus(), gcs_port, dashboard_port, serve_port)


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
    info = _read_info(path)
    guard = _guard_process(info)
    if guard is not None:
        guard.send_signal(signal.SIGTERM)
        try:
            guard.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            guard.kill()
    killed = _sweep(info)
    shutil.rmtree(info.temp_dir, ignore_errors=True)
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
        num_cpus=int(default_cpus()), include_dashboard=False, log_to_driver=False, configure_logging=False
    )


def _start(
    settings: Settings, num_cpus: float, gcs_port: int, dashboard_port: int, serve_port: int
) -> ClusterInfo:
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log_file = logs / "cluster.log"
    # Unix socket paths have room for 107 characters, so Ray's directory is a short one.
    temp_dir = tempfile.mkdtemp(prefix="linnet-", dir="/tmp")
    auth_mode = os.environ.get("RAY_AUTH_MODE", "token")
    if auth_mode == "token":
        _ensure_token()
    agent_port = _free_port()
    command = _ray_command(num_cpus, gcs_port, dashboard_port, agent_port, temp_dir)
    with log_file.open("wb") as log:
        guard = subprocess.Popen(
            [sys.executable, "-m", "cluster.guard", temp_dir, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(settings, auth_mode, temp_dir),
        )
    _guards.append(guard)
    info = ClusterInfo(
        guard_pid=guard.pid,
        guard_started=psutil.Process(guard.pid).create_time(),
        address=f"{HOST}:{gcs_port}",
        dashboard_url=f"http://{HOST}:{dashboard_port}",
        serve_url=f"http://{HOST}:{serve_port}",
        temp_dir=temp_dir,
        log_file=str(log_file),
        num_cpus=num_cpus,
        auth_mode=auth_mode,
    )
    _write_info(settings.home, info)
    try:
        _wait_until_up(guard, info, agent_port)
    except BaseException:
        down(settings)
        raise
    return info


def _ray_command(
    num_cpus: float, gcs_port: int, dashboard_port: int, agent_port: int, temp_dir: str
) -> list[str]:
    """Every port that Ray would fix is given, so that clusters on one machine do not collide."""
    return [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        f"--node-ip-address={HOST}",
        f"--port={gcs_port}",
        f"--num-cpus={num_cpus:g}",
        "--include-dashboard=true",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={_free_port()}",
        f"--temp-dir={temp_dir}",
    ]


def _scratch(temp_dir: str) -> dict[str, str]:
    """Where HAProxy and vLLM put sockets and state, so that they go with the cluster."""
    haproxy = f"{temp_dir}/h"
    return {
        "VLLM_RPC_BASE_PATH": temp_dir,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{haproxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{haproxy}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{haproxy}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{haproxy}/server-state",
    }


def _ensure_token() -> None:
    """Ray reads its token where its documentation says; make one when there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as writer:
        writer.write(secrets.token_hex(32))


def _environment(settings: Settings, auth_mode: str, temp_dir: str) -> dict[str, str]:
    chosen = {**SERVE_ENVIRONMENT, **_scratch(temp_dir), **os.environ, "RAY_AUTH_MODE": auth_mode}
    chosen["LINNET_HOME"] = str(settings.home)
    chosen["LINNET_ROOT"] = settings.root
    chosen["LINNET_STATE_URL"] = settings.state_url
    chosen["PATH"] = f"{Path(sys.executable).parent}:{chosen.get('PATH', '')}"
    chosen.pop("RAY_ADDRESS", None)
    return chosen


def _wait_until_up(guard: subprocess.Popen[bytes], info: ClusterInfo, agent_port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if guard.poll() is not None:
            raise EnvironmentSetupError(
                f"Ray ended while starting: {_last_line(info.log_file)}",
                code="cluster.start_failed", hint=f"The whole log is in {info.log_file}.",
            )  # fmt: skip
        started = _STARTED in Path(info.log_file).read_text(errors="replace")
        if started and _answers(info.dashboard_url) and _listens(agent_port):
            return
        time.sleep(0.1)
    raise TimedOutError(
        f"Ray's dashboard did not answer within {START_TIMEOUT_S:.0f} s: {_last_line(info.log_file)}",
        code="cluster.start_timeout", hint=f"The whole log is in {info.log_file}.",
    )  # fmt: skip


def _answers(dashboard_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{dashboard_url}/api/version", timeout=2) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (urllib.error.URLError, OSError):
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return any(probe.connect_ex((host, port)) == 0 for host in (HOST, socket.gethostname()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _last_line(path: str) -> str:
    lines = [line for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(no output)"


def _require_free(port: int, name: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise EnvironmentSetupError(
                f"Port {port} ({name}) is in use{_holder(port)}.",
                code="environment.port_in_use",
                hint="End that process, or choose another port (`linnet up --help`).",
            ) from None


def _holder(port: int) -> str:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f" by pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return ""


def _guard_process(info: ClusterInfo) -> psutil.Process | None:
    try:
        process = psutil.Process(info.guard_pid)
        same = abs(process.create_time() - info.guard_started) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _sweep(info: ClusterInfo) -> list[int]:
    """Kill what is left of a cluster whose guard was killed: all that was told its temp dir."""
    marked = [process for process in psutil.process_iter() if _belongs(process, info.temp_dir)]
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
