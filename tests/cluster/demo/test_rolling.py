"""The rollout's steps against real `linnet rollout` commands, a real database and a real HTTP server."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.demo import rolling, serving
from cluster.demo.client import MODEL
from cluster.demo.state import Demo
from cluster.errors import GateFailedError, LinnetError
from cluster.state import policies, replicas
from cluster.traffic import TrafficPolicy, route
from tests.cluster.demo.world import SplitGateway


@pytest.fixture
def ready(demo: Demo, gateway: SplitGateway, tmp_path: Path) -> Demo:
    demo.serve_url = gateway.url
    demo.policy = TrafficPolicy(model=MODEL, revision=0, stable="v1")
    demo.data = tmp_path
    write_test_split(tmp_path / "test.parquet", ["positive", "positive", "negative"] * 100)
    return demo


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def write_test_split(file: Path, labels: list[str]) -> None:
    rows = [
        {"messages": [turn("system", "Good?"), turn("user", f"text {n}"), turn("assistant", label)]}
        for n, label in enumerate(labels)
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)


def test_start_split_promote_back_and_forth(
    ready: Demo, gateway: SplitGateway, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rolling, "_WATCH_S", 0.2)
    gateway.answers = {"v1": "Dunno", "v2": "Positive!"}
    serving.start_client(ready)
    for step in (
        rolling.start_rollout,
        rolling.observe_split,
        rolling.measure_accuracy,
        rolling.promote,
        rolling.roll_back,
    ):
        step(ready)
    assert [mark.name for mark in ready.marks] == ["start", "promote", "rollback"]
    assert ready.split.keys == rolling.SPLIT_KEYS >= 300
    assert ready.split.misrouted == 0
    assert ready.split.expected == 0.1
    assert ready.split.standard_errors < 6
    assert ready.snippets == 200
    assert ready.accuracy == {"v1": 0.0, "v2": 0.5}
    assert 0 < ready.rollback_s < 30
    assert not any(answer.error for answer in ready.answers())
    with gateway.store.database.snapshot() as session:
        assert policies.get(session, MODEL) == ready.policy
    assert ready.policy.stable == "v1"
    assert "$ linnet rollout rollback smollm2 --yes --json" in said.getvalue()
    pins = {seen["x-linnet-version"] for seen in gateway.seen if "x-linnet-version" in seen}
    assert pins == {"v1", "v2"}


def test_a_version_without_a_replica_is_refused_by_the_command_itself(ready: Demo, gateway: SplitGateway):
    with gateway.store.database.transaction() as session:
        replicas.forget(session, "v2#1")
    with pytest.raises(GateFailedError) as caught:
        rolling.start_rollout(ready)
    assert caught.value.exit_code == 4


def test_a_gateway_that_splits_otherwise_is_found_out(
    ready: Demo, gateway: SplitGateway, monkeypatch: pytest.MonkeyPatch
):
    rolling.start_rollout(ready)
    monkeypatch.setattr(rolling, "SPLIT_KEYS", 100)
    monkeypatch.setattr(gateway, "_split", lambda key: "v2" if key.startswith(("0", "1")) else "v1")
    with pytest.raises(LinnetError) as caught:
        rolling.observe_split(ready)
    assert caught.value.code == "demo.misrouted"


def test_a_failed_request_stops_a_measurement(ready: Demo):
    ready.serve_url = "http://127.0.0.1:9"
    with pytest.raises(LinnetError) as caught:
        rolling.measure_accuracy(ready)
    assert caught.value.code == "demo.requests_failed"


def test_snippets_are_balanced_and_in_order(tmp_path: Path):
    write_test_split(tmp_path / "test.parquet", ["positive"] * 5 + ["negative"] * 5)
    found = rolling.read_snippets(tmp_path / "test.parquet", 4)
    assert found == [
        ("Good?", "text 0", "positive"),
        ("Good?", "text 1", "positive"),
        ("Good?", "text 5", "negative"),
        ("Good?", "text 6", "negative"),
    ]


def test_a_telling_key_differs_between_the_policies():
    before = TrafficPolicy(model=MODEL, revision=1, stable="v1")
    after = TrafficPolicy(model=MODEL, revision=2, stable="v1", candidate="v2", weight=10)
    key = rolling.telling_key(before, after)
    assert (route(before, key), route(after, key)) == ("v1", "v2")
