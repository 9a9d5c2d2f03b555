"""A replica that is killed while it loads is no bad version; one that always is cannot be rolled out.

Neither is loaded for nothing: one that was refused is tried again by the next deploy alone.
"""

from __future__ import annotations

import pytest

from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from serve_apps.tried_already import WITHIN
from tests.e2e import processes
from tests.e2e.rolling import Rolling, controller
from tests.support.endpoint import MODEL, publish, publish_tiny_versions, wait_for
from tests.support.tiny_model import make_tiny_model

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


def refusals(endpoint, version):
    with ModelStore.open(endpoint.settings).database.snapshot() as session:
        return [row.seen_at for row in replicas.refusals(session, MODEL, version)]


def test_a_refused_version_is_loaded_again_by_the_next_deploy(endpoint, tmp_path):
    publish(ModelStore.open(endpoint.settings), make_tiny_model(tmp_path / "v81", seed=81), "v81", None)
    endpoint.deploy(["v1", "v2", "v81"])
    wait_for(lambda: refusals(endpoint, "v81"), "a refusal for want of golden answers", 120)
    endpoint.deploy(["v1", "v2"])
    wait_for(lambda: f"{MODEL}-v81" not in endpoint.applications(), "its application to be gone", 60)
    endpoint.deploy(["v1", "v2", "v81"])
    newest, first = wait_for(
        lambda: found if len(found := refusals(endpoint, "v81")) > 1 else None, "another", 60
    )
    assert newest - first < WITHIN, "the deploy, and not the minute, has ended the first one"
