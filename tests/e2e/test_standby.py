"""A standby is proven, gets nothing, and takes over in the moment in which the routed replica is killed."""

from __future__ import annotations

import http.client
import re
import time
import urllib.request

import psutil
import pytest

from cluster.registry import ModelStore
from tests.e2e import processes
from tests.e2e.load import Load
from tests.support.endpoint import MODEL, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

# An idle engine is asked for a token now and then, which would count as a request.
ARGS = {"standby": 1, "liveness_s": 600}
_FINISHED = re.compile(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", re.MULTILINE)


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


def finished(actor):
    """Requests that a replica's engine has finished, by vLLM's own count."""
    listening = {c.laddr.port for c in actor.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    for port in listening:
        try:
            url = f"http://127.0.0.1:{port}/_versions/{MODEL}/v5/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return sum(float(count) for count in _FINISHED.findall(answer.read().decode()))
        except (OSError, http.client.HTTPException):
            continue
    raise AssertionError(f"no port of {actor.pid} tells vLLM's metrics: {listening}")


def test_a_standby_gets_nothing_until_it_takes_over_and_then_at_once(with_standby, told):
    standby_id = by_status(with_standby)["standby"]
    before = {actor: finished(actor) for actor in actors()}
    with Load(with_standby.url, f"{MODEL}:v5", tokens=60) as load:
        wait_for(lambda: len(load.answered) >= 20, "the load runs")
        gained = {actor: finished(actor) - count for actor, count in before.items()}
        routed, standby = sorted(gained, key=gained.__getitem__, reverse=True)
        assert gained[standby] == 0
        routed.kill()
        killed, answered = time.monotonic(), len(load.answered)
        wait_for(lambda: len(load.answered) > answered, "the next answer", 10)
        pause = time.monotonic() - killed
        wait_for(lambda: finished(standby) > before[standby] + 5, "the standby answers", 10)
        wait_for(lambda: by_status(with_standby)["serving"] == standby_id, "it shows", 60)
        wait_for(
            lambda: by_status(with_standby).get("standby", standby_id) != standby_id, "another standby", 240
        )
        [arrived] = set(actors()) - {standby}
        count = finished(arrived)
        seen = len(load.answered)
        wait_for(lambda: len(load.answered) >= seen + 20, "the load goes on")
        assert finished(arrived) == count
    assert load.failures == []
    assert pause < 5
    rows = with_standby.linnet("serve", "receipts", MODEL)["data"]
    [receipt] = [row for row in rows if row["version"] == "v5"]
    assert (receipt["replaced_by"], receipt["by_standby"]) == (standby_id, True)
    told.append(f"a standby took over: next answer {pause:.2f} s after the kill, {receipt}")
