"""Replicas on several hosts: one loses its power under load, and callers get their answers all the same."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from cluster.config import Settings
from cluster.registry import ModelStore
from cluster.state import replicas
from tests.hosts import cluster
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.system import CHECKOUT
from tests.support.endpoint import MODEL, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TIMES = logging.getLogger(__name__)
WORKERS = ("worker1", "worker2")
# Whoever calls reaches the proxy of the head; a gateway beside it is lost only with it.
ON_HEAD = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
ENDPOINT = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "0.0.0.0", "port": 8000},
    "applications": [
        {
            "name": "gateway",
            "import_path": "serve_apps.app:gateway",
            "route_prefix": "/",
            "args": {"models": [MODEL], "replica_wait_s": 20},
            "deployments": [{"name": "gateway", "ray_actor_options": ON_HEAD}],
        },
        {
            "name": f"{MODEL}-v1",
            "import_path": "serve_apps.app:version",
            "route_prefix": f"/_versions/{MODEL}/v1",
            "args": {
                "version": f"{MODEL}:v1",
                "engine_kwargs": {"max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True},
            },
            "deployments": [{"name": f"{MODEL}-v1", "num_replicas": 2}],
        },
    ],
}


@pytest.fixture
def served() -> Iterator[tuple[cluster.RayCluster, Network, Settings]]:
    with (
        Network.create(["desk", "head", *WORKERS]) as network,
        cluster.up(network, desk="desk", head="head", workers=WORKERS) as running,
    ):
        state = f"sqlite:///{network.shared}/state/linnet.db"
        settings = Settings(home=network.shared / "home", root=str(network.shared), state_url=state)
        with tempfile.TemporaryDirectory() as scratch:
            source = make_tiny_model(Path(scratch) / "tiny")
            publish(ModelStore.open(settings), source, "v1", golden.compute(source))
        running.wait_for_nodes(1 + len(WORKERS))
        (network.shared / "endpoint.yaml").write_text(yaml.safe_dump(ENDPOINT))
        running.on_head("serve deploy /mnt/linnet/endpoint.yaml")
        wait_for(lambda: len(proven(settings)) == 2, "two replicas", 300)
        yield running, network, settings


def proven(settings: Settings) -> set[str]:
    with ModelStore.open(settings).database.snapshot() as session:
        return {row.replica for row in replicas.live(session, MODEL) if row.status == "serving"}


def hosts_of_replicas(network: Network) -> list[Host]:
    title = f"ServeReplica:{MODEL}-v1"
    return [host for host in network.hosts.values() if host.processes(title)]


@contextmanager
def asking(desk: Host, url: str, found: dict, *options: str) -> Iterator[None]:
    """Callers on the desk for as long as the block lasts; `found` then has what they got."""
    program = " ".join([".venv/bin/python -m tests.hosts.asking", url, *options])
    caller = desk.start(f"cd {CHECKOUT} && {program}", with_input=True)
    assert caller.stdout is not None
    assert (line := caller.stdout.readline()) == "asking\n", line + caller.stdout.read()
    try:
        yield
    finally:
        out, _ = caller.communicate("", timeout=180)
    found.update(json.loads(out))


def test_a_host_that_is_lost_under_load_costs_no_answer(served):
    running, network, settings = served
    places = hosts_of_replicas(network)
    assert len(places) == 2, "the replicas of a version are on different hosts"
    victim = next(host for host in places if host.name in WORKERS)
    before = proven(settings)
    found: dict = {}
    with asking(network["desk"], f"http://{running.head.address}:8000", found):
        victim.kill()
        wait_for(lambda: len(proven(settings) - before) >= 1, "a replica in the place of the lost one", 240)
    TIMES.info("%s", found)
    assert found["wrong"] == []
    assert found["cut"] == 0
    assert found["equal"] > 20
