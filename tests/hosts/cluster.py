"""The project's own cluster.yaml on hosts of a network: edited as a user would, then `ray up`, `ray down`."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.system import CHECKOUT

CHANGE = re.compile(r"^(?P<lead>\s*(?:export )?(?P<key>\w+)(?:: |=))(?P<value>.*?)(?P<tail> # CHANGE)$")
RAY = f"{CHECKOUT}/.venv/bin/ray"
# Asks the cluster's own state store, and starts no driver for it.
LIVE = """
import ray
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
client = GcsClient(address="127.0.0.1:6379")
for node in client.get_all_node_info().values():
    if node.state == GcsNodeInfo.ALIVE:
        print("LIVE", node.node_manager_address)
"""
CONFIG = "/root/cluster.yaml"
# How long the hosts go on without the head, which must boot and be started again meanwhile.
PATIENCE_S = 150


def edited(text: str, values: Mapping[str, str]) -> str:
    """A cluster.yaml in which the lines marked CHANGE, and no others, have these values.

    Raises ValueError unless the marked lines are exactly those that `values` names.
    """
    marked = []
    lines = text.splitlines()
    for place, line in enumerate(lines):
        if not line.endswith("# CHANGE"):
            continue
        found = CHANGE.match(line)
        if found is None or found["key"] not in values:
            raise ValueError(f"no value for the marked line {line!r}; values: {sorted(values)}")
        marked.append(found["key"])
        lines[place] = f"{found['lead']}{values[found['key']]}{found['tail']}"
    if sorted(marked) != sorted(values):
        raise ValueError(f"lines marked CHANGE: {sorted(marked)}; values: {sorted(values)}")
    return "\n".join([*lines, ""])


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster that `ray up` brought up. `seconds_up`: how long `ray up` took, workers not awaited."""

    desk: Host
    head: Host
    workers: tuple[Host, ...]
    seconds_up: float

    def on_head(self, command: str, *, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the head in the environment that cluster.yaml made, in ~/linnet."""
        return self.head.run(f". ~/linnet.env && cd ~/linnet && {command}", timeout=timeout)

    def bring_back_head(self, network: Network) -> float:
        """Boot a head that was killed, and `ray up` as before; seconds that it took."""
        began = time.monotonic()
        network.boot(self.head.name)
        _ray_up(self.desk)
        return time.monotonic() - began

    def live_nodes(self) -> set[str]:
        """Addresses of the hosts that the cluster takes for alive."""
        return set(re.findall(r"LIVE ([\d.]+)", self.on_head(f"python -c {shlex.quote(LIVE)}").stdout))

    def wait_for_nodes(self, count: int, timeout: float = 180.0) -> float:
        """Seconds until the cluster has `count` live hosts, the head among them."""
        began = time.monotonic()
        while len(nodes := self.live_nodes()) != count:
            if time.monotonic() - began > timeout:
                raise TimeoutError(f"{count} hosts wanted, {sorted(nodes)} are there\n{self.monitor_log()}")
            time.sleep(1)
        return time.monotonic() - began

    def monitor_log(self) -> str:
        """What Ray's autoscaler on the head wrote, which starts the workers: errors of theirs are here."""
        return self.head.run("tail -n 60 /tmp/ray/session_latest/logs/monitor.*", check=False).stdout


@contextmanager
def up(network: Network, *, desk: str, head: str, workers: Sequence[str]) -> Iterator[RayCluster]:
    """`ray up` of cluster.yaml from the host `desk`; `ray down` at the end, unless the head is dead.

    All hosts but the desk get a copy of the checkout. LINNET_ROOT is /mnt/linnet, the state an SQLite file
    there. The workers join after it has returned: `wait_for_nodes`.
    """
    table, top, hands = network[desk], network[head], tuple(network[name] for name in workers)
    _prepare_desk(network, table, top, hands)
    began = time.monotonic()
    _ray_up(table)
    try:
        yield RayCluster(table, top, hands, time.monotonic() - began)
    finally:
        if top.init is not None:
            table.run(f"cd {CHECKOUT} && {RAY} down -y {CONFIG}", timeout=120)


def _ray_up(desk: Host) -> None:
    desk.run(f"cd {CHECKOUT} && {RAY} up --no-config-cache -y {CONFIG}", timeout=300)


def _prepare_desk(network: Network, desk: Host, head: Host, workers: Sequence[Host]) -> None:
    home = desk.directory / "home"
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(network.key, home / ".ssh" / "id_ed25519")
    desk.run(f"test -f ~/.ray/auth_token || {RAY} get-auth-token --generate")
    values = {
        "max_workers": str(len(workers)),
        "head_ip": head.address,
        "worker_ips": f"[{', '.join(worker.address for worker in workers)}]",
        "ssh_user": "root",
        "ssh_private_key": "~/.ssh/id_ed25519",
        "LINNET_ROOT": "/mnt/linnet",
        "LINNET_STATE_URL": "sqlite:////mnt/linnet/state/linnet.db",
        "RAY_TMPDIR": "/tmp",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(PATIENCE_S),
    }
    (home / "cluster.yaml").write_text(edited((CHECKOUT / "cluster.yaml").read_text(), values))
