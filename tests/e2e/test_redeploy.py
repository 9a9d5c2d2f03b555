"""`serve deploy` of a changed file under load: nothing fails, and no replica restarts that need not."""

from __future__ import annotations

import pytest

from cluster.registry import ModelStore
from tests.e2e import processes
from tests.e2e.load import Load
from tests.support.endpoint import MODEL, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def restored(shared_endpoint):
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def pids():
    engines = processes.titled("VLLM::EngineCore")
    return {p.pid for p in [*engines, *processes.gateways(), *processes.replicas()]}


def test_a_version_added_and_replicas_changed(restored, shared_settings, tmp_path):
    source = make_tiny_model(tmp_path / "v4", seed=4)
    publish(ModelStore.open(shared_settings), source, "v4", golden.compute(source))
    restored.deploy(["v1", "v2"])
    restored.wait_until_serving(["v1", "v2"])
    wait_for(lambda: len(pids()) == 4, "a gateway, two engines and one replica of v1", 60)
    warm = {p.pid for p in wait_for(processes.warm_workers, "a worker with its imports done", 60)}
    before = pids()
    with Load(url=restored.url, model=MODEL) as load:
        restored.deploy(["v1", "v2", "v4"])
        wait_for(lambda: "v4" in restored.serving(), "the new version", 180)
        assert before <= pids()
        assert {p.pid for p in processes.titled(f"ServeReplica:{MODEL}-v4")} <= warm
        restored.deploy(["v1", "v2", "v4"], replicas={"v1": 2})
        wait_for(lambda: len(processes.proven(restored)) == 2, "a second replica of v1", 180)
        assert before <= pids()
        restored.deploy(["v1", "v2"], replicas={"v1": 2})
        wait_for(lambda: restored.serving() == ["v1", "v2"], "the version gone", 120)
        assert before <= pids()
        restored.deploy(["v1", "v2"])
        wait_for(lambda: len(processes.replicas()) == 1, "one replica of v1", 120)
    assert load.failures == []
    assert len(load.answered) > 20
