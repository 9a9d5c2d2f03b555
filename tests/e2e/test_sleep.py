"""A version that nobody asks has no replica; the requests that come then wait until it is awake.

Its replicas were lost in a storm before, so that the one that wakes it backs off first.
"""

from __future__ import annotations

import json
import threading
import urllib.request
from datetime import timedelta

import pytest

from cluster.registry import ModelStore
from cluster.state import losses, replicas
from cluster.state.losses import Loss, Signal
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from tests.e2e import processes
from tests.support.endpoint import MODEL, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

ARGS = {
    "deployment_config": {
        "autoscaling_config": {
            "min_replicas": 0,
            "max_replicas": 1,
            "metrics_interval_s": 0.5,
            "look_back_period_s": 2,
            "upscale_delay_s": 0,
            "downscale_delay_s": 5,
        }
    }
}


@pytest.fixture
def sleepy(shared_endpoint, shared_settings, tmp_path):
    source = make_tiny_model(tmp_path / "v6", seed=6)
    publish(ModelStore.open(shared_settings), source, "v6", golden.compute(source))
    shared_endpoint.deploy(["v1", "v2", "v6"], args={"v6": ARGS})
    wait_for(actors, "it proves itself at the deploy", 240)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def actors():
    return processes.titled(f"ServeReplica:{MODEL}-v6")


def statuses(endpoint):
    rows = endpoint.linnet("serve", "status", MODEL)["data"]
    return [row["status"] for row in rows if row["version"] == "v6"]


def storm(endpoint):
    """Five losses of replicas that had hardly served, told by a gateway whose clock runs ahead."""
    at = utc_now() + timedelta(seconds=60)
    with ModelStore.open(endpoint.settings).database.transaction() as session:
        for number in range(5):
            name = f"lost-{number}"
            replicas.report(
                session, replica=name, model=MODEL, version="v6", status=ReplicaStatus.SERVING, detail={}
            )
            row = session.get(ReplicaRow, (name, "v6"))
            row.started_at, row.seen_at = at, at - timedelta(hours=1)
            losses.add(
                session,
                Loss(
                    replica=name,
                    model=MODEL,
                    version="v6",
                    signal=Signal.DROPPED,
                    heard_at=at,
                    detected_at=at,
                    isolated_at=at,
                ),
            )


def paused(endpoint):
    """Seconds that the replica which serves now had waited before it loaded."""
    with ModelStore.open(endpoint.settings).database.snapshot() as session:
        [row] = [
            row for row in replicas.live(session, MODEL) if row.version == "v6" and row.status == "serving"
        ]
        return row.detail["pause_s"]


def ask(endpoint, *, stream):
    body = {"model": f"{MODEL}:v6", "prompt": "Good morning", "max_tokens": 6, "stream": stream}
    request = urllib.request.Request(
        f"{endpoint.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=200) as answer:
        text = answer.read()
    assert not stream or text.rstrip().endswith(b"data: [DONE]"), text[-200:]
    return text


def test_it_goes_to_sleep_and_wakes_for_all_who_ask_at_once(sleepy):
    wait_for(lambda: statuses(sleepy) == ["asleep"] and not actors(), "it sleeps", 120)
    storm(sleepy)
    answers, failures = [], []

    def call(number):
        try:
            answers.append(ask(sleepy, stream=number % 2 == 0))
        except (OSError, AssertionError) as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(answers) == 6
    assert len(actors()) == 1
    assert 3 < paused(sleepy) < 10
    wait_for(lambda: "serving" not in statuses(sleepy) and not actors(), "it sleeps again", 120)
    rows = sleepy.linnet("serve", "receipts", MODEL)["data"]
    assert {row["replica"] for row in rows if row["version"] == "v6"} == {f"lost-{n}" for n in range(5)}
