"""A standby is proven, gets nothing, and takes over in the moment in which the routed replica is killed."""

from __future__ import annotations

import time

import psutil
import pytest

from cluster.registry import ModelStore
from tests.e2e import processes
from tests.e2e.load import Load
from tests.support.endpoint import MODEL, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

ARGS = {"standby": 1}


@pytest.fixture
def with_standby(shared_endpoint, shared_settings, tmp_path):
    source = make_tiny_model(tmp_path / "v5", seed=5)
    publish(ModelStore.open(shared_settings), source, "v5", golden.compute(source))
    shared_endpoint.deploy(["v1", "v2", "v5"], args={"v5": ARGS})
    wait_for(
        lambda: set(by_status(shared_endpoint)) == {"serving", "standby"}, "a replica and its standby", 240
    )
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def by_status(endpoint):
    """Ids of the replicas of v5 by what `linnet serve status` calls them."""
    rows = endpoint.linnet("serve", "status", MODEL)["data"]
    return {row["status"]: row["replica"] for row in rows if row["version"] == "v5"}


def actors():
    return processes.titled(f"ServeReplica:{MODEL}-v5")


def connections(actor):
    """From the gateway, which keeps one for seconds after a request: looking often enough misses none."""
    ports = {c.laddr.port for c in actor.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return [
        c
        for gateway in processes.gateways()
        for c in gateway.net_connections("tcp")
        if c.status == psutil.CONN_ESTABLISHED and c.raddr.port in ports
    ]


def watch(load, answers, idle):
    """Until so many more requests were answered; `idle` is asked none of them."""
    until = len(load.answered) + answers
    while len(load.answered) < until and not load.failures:
        assert connections(idle) == []
        time.sleep(0.2)


def test_a_standby_gets_nothing_until_it_takes_over_and_then_at_once(with_standby, told):
    standby_id = by_status(with_standby)["standby"]
    with Load(url=with_standby.url, model=f"{MODEL}:v5", tokens=60) as load:
        wait_for(lambda: len(load.answered) >= 5, "the load runs")
        [routed] = [actor for actor in actors() if connections(actor)]
        [standby] = set(actors()) - {routed}
        watch(load, 20, idle=standby)
        routed.kill()
        killed, seen = time.monotonic(), len(load.answered)
        wait_for(lambda: connections(standby), "the standby is asked", 10)
        wait_for(lambda: len(load.answered) > seen + 3, "the standby answers", 10)
        pause = time.monotonic() - killed
        wait_for(
            lambda: by_status(with_standby).get("standby", standby_id) != standby_id, "another standby", 240
        )
        [arrived] = set(actors()) - {standby}
        watch(load, 20, idle=arrived)
    assert load.failures == []
    rows = with_standby.linnet("serve", "receipts", MODEL)["data"]
    [receipt] = [row for row in rows if row["version"] == "v5"]
    assert (receipt["replaced_by"], receipt["by_standby"]) == (standby_id, True)
    told.append(
        f"a standby took over: callers were answered {pause:.2f} s after the kill; "
        f"{len(load.answered)} answers, {receipt['retried']} asked again, {receipt['continued']} went on"
    )
