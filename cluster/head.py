"""A head node on this machine: its command, its environment, its ports and its token."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from cluster.config import Settings
from cluster.errors import EnvironmentSetupError
from cluster.tls import haproxy
from cluster.tls.pair import CERTFILE, KEYFILE, KeyPair

HOST = "127.0.0.1"

# Ray Serve settings that the endpoint relies on; everything in the cluster inherits them.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
}


def ray_command(
    num_cpus: float, gcs_port: int, dashboard_port: int, agent_port: int, temp_dir: str
) -> list[str]:
    """Every port that Ray would fix is given, so that clusters on one machine do not collide.

    The GCS keeps its tables in RocksDB below `temp_dir`. The system config says so and not the environment,
    which everything in the cluster inherits: what started another cluster would open this one's tables.
    """
    system_config = {"gcs_storage": "rocksdb", "gcs_storage_path": f"{temp_dir}/gcs"}
    return [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--disable-usage-stats",
        f"--node-ip-address={HOST}",
        f"--port={gcs_port}",
        f"--num-cpus={num_cpus:g}",
        "--include-dashboard=true",
        f"--dashboard-host={HOST}",
        f"--dashboard-port={dashboard_port}",
        f"--dashboard-agent-listen-port={agent_port}",
        f"--ray-client-server-port={free_port()}",
        f"--temp-dir={temp_dir}",
        f"--system-config={json.dumps(system_config)}",
    ]


def module(name: str) -> list[str]:
    """The command that runs a module of `cluster` as a program."""
    return [sys.executable, "-m", f"cluster.{name}"]


def _scratch(temp_dir: str) -> dict[str, str]:
    """Sockets, state and side ports of HAProxy and vLLM: gone with the cluster, apart from another's."""
    haproxy = f"{temp_dir}/h"
    return {
        "VLLM_RPC_BASE_PATH": temp_dir,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{haproxy}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{haproxy}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{haproxy}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": haproxy,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{haproxy}/server-state",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }


def ensure_token() -> None:
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


def environment(
    settings: Settings, auth_mode: str, temp_dir: str, pair: KeyPair | None = None
) -> dict[str, str]:
    """What Ray and everything that it starts inherit; what the caller has set wins over our defaults."""
    chosen = {**SERVE_ENVIRONMENT, **_scratch(temp_dir), **os.environ, "RAY_AUTH_MODE": auth_mode}
    # Replicas listen on the endpoint's own port: with it, they answer to the gateway alone.
    chosen.setdefault("VLLM_API_KEY", secrets.token_hex(32))
    chosen["LINNET_HOME"] = str(settings.home)
    chosen["LINNET_ROOT"] = settings.root
    chosen["LINNET_STATE_URL"] = settings.state_url
    chosen["PATH"] = f"{Path(sys.executable).parent}:{chosen.get('PATH', '')}"
    chosen.pop("RAY_ADDRESS", None)
    for name in (CERTFILE, KEYFILE):
        chosen.pop(name, None)
    if pair is not None:
        chosen |= {**pair.environment, haproxy.BINARY: haproxy.launcher()}
    elif chosen.get(haproxy.BINARY) == haproxy.launcher():
        del chosen[haproxy.BINARY]
    return chosen


def answers(dashboard_url: str) -> bool:
    """Whether the dashboard answers, be it that it wants a token."""
    try:
        with urllib.request.urlopen(f"{dashboard_url}/api/version", timeout=2) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (urllib.error.URLError, OSError):
        return False


def listens(port: int) -> bool:
    """Whether something on this machine accepts connections on `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return any(probe.connect_ex((host, port)) == 0 for host in (HOST, socket.gethostname()))


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def last_line(path: str) -> str:
    """The last line of a log that says something."""
    lines = [line for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "(no output)"


def require_free(port: int, name: str) -> None:
    """Raise EnvironmentSetupError, naming the holder where the system tells, for a port in use."""
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
