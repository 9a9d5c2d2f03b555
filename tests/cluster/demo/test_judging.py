"""The judged rollout of the demo; the controller's part is played by a person's word."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import load_yaml
from cluster.demo import judging
from cluster.demo.client import MODEL
from cluster.demo.state import Demo
from cluster.errors import GateFailedError, LinnetError
from cluster.state import policies
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import records
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Command, Promote, Rollback
from tests.cluster.demo.world import SplitGateway


@pytest.fixture
def ready(demo: Demo, gateway: SplitGateway) -> Demo:
    demo.serve_url = gateway.url
    demo.policy = TrafficPolicy(model=MODEL, revision=0, stable="v1")
    return demo


@pytest.fixture
def ended_by(gateway: SplitGateway) -> Iterator[Callable[[Command], None]]:
    """Ends the rollout that comes, once some questions were asked."""
    begun, threads = threading.Event(), []

    def end(command: Command) -> None:
        while not begun.wait(0.05):
            with gateway.store.database.snapshot() as session:
                active = records.read_situation(session, MODEL).active
            if active is not None and len(gateway.seen) > 32:
                Rollouts(gateway.store).run(command)
                return

    def start(command: Command) -> None:
        threads.append(threading.Thread(target=end, args=(command,)))
        threads[0].start()

    yield start
    begun.set()
    threads[0].join(20)


def test_it_asks_until_the_rollout_is_over_and_follows_its_end(
    ready: Demo, gateway: SplitGateway, said: io.StringIO, ended_by: Callable[[Command], None]
):
    ended_by(Promote(model=MODEL))
    judging.promote_by_policy(ready)
    with gateway.store.database.snapshot() as session:
        assert policies.get(session, MODEL) == ready.policy
    assert ready.policy.stable == "v2"
    assert [mark.name for mark in ready.marks] == ["start", "promote"]
    assert sum(answer.question.stream for answer in ready.measured) > 32
    assert "promoted after" in said.getvalue()


def test_one_that_is_taken_back_ends_the_demo(ready: Demo, ended_by: Callable[[Command], None]):
    ended_by(Rollback(model=MODEL))
    with pytest.raises(GateFailedError, match="was taken back") as caught:
        judging.promote_by_policy(ready)
    assert caught.value.exit_code == 4


def test_a_failed_request_ends_the_wait(ready: Demo):
    ready.serve_url = "http://127.0.0.1:9"
    with pytest.raises(LinnetError) as caught:
        judging.promote_by_policy(ready)
    assert caught.value.code == "demo.requests_failed"


def test_the_policy_is_one_that_waits_for_few_answers(tmp_path: Path):
    import yaml

    file = tmp_path / "canary.yaml"
    file.write_text(yaml.safe_dump(judging.POLICY))
    spec = load_yaml(file, RolloutSpec)
    assert len(spec.steps) == 2
    assert {gate.min_samples for gate in spec.gates} == {20}
    assert all(not step.at_least_s for step in spec.steps)
