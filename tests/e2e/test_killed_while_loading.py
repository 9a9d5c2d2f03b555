"""A replica that is killed while it loads is no bad version; one that always is cannot be rolled out."""

from __future__ import annotations

import pytest

from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from tests.e2e import processes
from tests.e2e.rolling import Rolling, controller
from tests.support.endpoint import MODEL, publish_tiny_versions, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def published(shared_endpoint, shared_settings, tmp_path_factory):
    publish_tiny_versions(shared_settings, tmp_path_factory.mktemp("killed"), ["v61", "v71"])
    return shared_endpoint


@pytest.fixture
def endpoint(published):
    yield published
    published.deploy(["v1", "v2"])


def loading(endpoint, version):
    """Names of the replicas that load, or did when they were killed."""
    with ModelStore.open(endpoint.settings).database.snapshot() as session:
        rows = [row for row in replicas.everything(session, MODEL) if row.version == version]
        return {row.replica for row in rows if row.status == ReplicaStatus.LOADING}


def kill_next(endpoint, version, killed):
    """Kill the replica that loads and is not among `killed`, and add it to them."""
    found = wait_for(lambda: loading(endpoint, version) - killed, f"a replica of {version} that loads", 120)
    (victim,) = processes.titled(f"ServeReplica:{MODEL}-{version}")
    victim.kill()
    killed |= found


def test_another_replica_is_started_in_its_place(endpoint):
    endpoint.deploy(["v1", "v2", "v71"])
    kill_next(endpoint, "v71", set())
    endpoint.wait_until_serving(["v1", "v2", "v71"])


def test_a_candidate_that_cannot_start_is_taken_back_as_soon_as_serve_gives_it_up(endpoint, tmp_path):
    endpoint.deploy(["v1", "v2", "v61"], more=[controller(url=endpoint.url)])
    rolling = Rolling(endpoint, tmp_path, MODEL)
    rollout = rolling.start("v61", {"metric": "error_rate", "max": "20%"})
    killed: set[str] = set()
    for _ in range(3):
        kill_next(endpoint, "v61", killed)
    row = rolling.wait_for_end(rollout, 60)
    assert (row.phase, row.reason) == ("rolled_back", "candidate_down")
    assert "Serve has given up starting the candidate" in rolling.last_look(rollout)["conclusion"]["why"]
