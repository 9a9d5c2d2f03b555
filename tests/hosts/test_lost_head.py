"""The head loses its autoscaler, its GCS, then its power amid a rollout: the other host answers meanwhile."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from cluster.config import Settings
from tests.e2e.rolling import Rolling, controller, version_app
from tests.e2e.test_rollout_kills import ERRORS, UNDISTURBED
from tests.hosts import cluster
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.test_serving import ON_HEAD, asking, hosts_of_replicas, proven
from tests.support.endpoint import MODEL, Endpoint, publish_tiny_versions, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TIMES = logging.getLogger(__name__)


class OfHosts(Endpoint):
    """The `linnet` of this machine on the state and the store that the hosts share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def environment(self) -> dict[str, str]:
        """For commands: no cluster, since a rollout's state is in the database."""
        return {
            **os.environ,
            "LINNET_HOME": str(self.settings.home),
            "LINNET_ROOT": self.settings.root,
            "LINNET_STATE_URL": self.settings.state_url,
        }


def endpoint(worker: str) -> dict[str, Any]:
    """All that answers is on the worker, at this address; the controller of rollouts is on the head."""
    here = {"num_cpus": 0, "resources": {f"node:{worker}": 0.001}}
    gateway = {
        "name": "gateway",
        "import_path": "serve_apps.app:gateway",
        "route_prefix": "/",
        "args": {"models": [MODEL], "replica_wait_s": 20},
        "deployments": [{"name": "gateway", "ray_actor_options": here}],
    }
    # The replica's actor adds its own CPU, and the worker has two for both versions.
    place = {"bundles": [{f"node:{worker}": 0.001}]}
    versions = [version_app(MODEL, label, placement_group_config=place) for label in ("v1", "v2")]
    rollouts = controller(url=f"http://{worker}:8000")
    rollouts["deployments"] = [{"name": "rollouts", "ray_actor_options": ON_HEAD}]
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [gateway, *versions, rollouts],
    }


@pytest.fixture
def served() -> Iterator[tuple[cluster.RayCluster, Network, Settings]]:
    with (
        Network.create(["desk", "head", "worker"]) as network,
        cluster.up(network, desk="desk", head="head", workers=["worker"]) as running,
    ):
        state = f"sqlite:///{network.shared}/state/linnet.db"
        settings = Settings(home=network.shared / "home", root=str(network.shared), state_url=state)
        with tempfile.TemporaryDirectory() as scratch:
            publish_tiny_versions(settings, Path(scratch), ["v1", "v2"])
        running.wait_for_nodes(2)
        text = yaml.safe_dump(endpoint(network["worker"].address))
        (network.shared / "endpoint.yaml").write_text(text)
        running.on_head("serve deploy /mnt/linnet/endpoint.yaml")
        wait_for(lambda: len(proven(settings)) == 2, "a replica of each version", 300)
        wait_for(lambda: of_controller(network["head"]), "the controller on the head", 120)
        yield running, network, settings


def of_controller(head: Host) -> list[psutil.Process]:
    return head.processes("ServeReplica:rollouts")


def lose(running: cluster.RayCluster, program: str) -> None:
    """Kill a daemon of the head, and wait for another in its place."""
    (daemon,) = running.head.processes(program)
    daemon.kill()
    wait_for(lambda: running.head.processes(program), f"another {program}", 60)


def lose_head(running: cluster.RayCluster, network: Network) -> None:
    running.head.kill()
    TIMES.info("head_back_s %.1f", running.bring_back_head(network))
    wait_for(lambda: of_controller(running.head), "the controller on the head", 240)


def test_a_rollout_goes_on_where_it_was_and_nobody_waits_for_the_head(served, tmp_path):
    running, network, settings = served
    assert [host.name for host in hosts_of_replicas(network)] == ["worker"]
    before, rolling = proven(settings), Rolling(OfHosts(settings), tmp_path, MODEL)
    found: dict = {}
    url = f"http://{network['worker'].address}:8000"
    with asking(network["desk"], url, found, "--split", "--calm"):
        rollout = rolling.start("v2", ERRORS)
        lose(running, "_private/monitor.py")
        lose(running, "gcs_server")
        rolling.wait_for_step(rollout, 1)
        lose_head(running, network)
        assert rolling.wait_for_end(rollout).phase == "promoted", rolling.last_look(rollout)
    TIMES.info("%s", found)
    assert [decision.command for decision in rolling.decisions(rollout)] == UNDISTURBED
    assert proven(settings) == before, "no replica was lost with the head"
    assert (found["wrong"], found["failures"], found["cut"]) == ([], [], 0)
    assert running.live_nodes() == {host.address for host in (network["head"], network["worker"])}
