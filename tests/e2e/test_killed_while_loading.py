"""A replica that is killed while it loads is no bad version: another one is started."""

from __future__ import annotations

import pytest

from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from tests.e2e import processes
from tests.support.endpoint import MODEL, publish_tiny_versions, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]


def test_another_replica_is_started_in_its_place(shared_endpoint, shared_settings, tmp_path):
    publish_tiny_versions(shared_settings, tmp_path, ["v7"])
    database = ModelStore.open(shared_settings).database

    def loading():
        with database.snapshot() as session:
            rows = [row for row in replicas.everything(session, MODEL) if row.version == "v7"]
            return [row for row in rows if row.status == ReplicaStatus.LOADING]

    shared_endpoint.deploy(["v1", "v2", "v7"])
    wait_for(loading, "a replica of v7 that loads", 120)
    (victim,) = processes.titled(f"ServeReplica:{MODEL}-v7")
    victim.kill()
    shared_endpoint.wait_until_serving(["v1", "v2", "v7"])
    shared_endpoint.deploy(["v1", "v2"])
