"""Rollouts whose controller, gateways and GCS are killed between their steps, under streams."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e import processes
from tests.e2e.comparison import PROMPTS, RETRIES, Comparison, Split, ask
from tests.e2e.rolling import Rolling, controller
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(5400)]

ROUNDS = 30
SEED = 20261127
ERRORS = {"metric": "error_rate", "max": "20%", "min_samples": 20}
UNDISTURBED = ["begin", "advance", "advance", "advance", "promote"]


def harm(draw: random.Random, endpoint: Endpoint) -> str:
    """Kill the controller, a gateway or the GCS; returns which."""
    found = {
        "controller": lambda: processes.titled("ServeReplica:rollouts"),
        "gateway": processes.gateways,
        "gcs": lambda: processes.head(endpoint, "gcs_server"),
    }
    name = draw.choice(sorted(found))
    # What another kill has taken may not be back yet.
    there = wait_for(found[name], f"a {name} to kill", 120)
    draw.choice(sorted(there, key=lambda process: process.pid)).kill()
    return name


@pytest.fixture
def serving(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], gateways=2, more=[controller(url=shared_endpoint.url)])
    shared_endpoint.wait_until_serving(["v1", "v2"])
    wait_for(lambda: len(processes.answering_gateways(shared_endpoint)) == 2, "two gateways", 120)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def test_thirty_rounds_of_kills_change_no_decision_and_fail_no_request(serving, tmp_path, told):
    draw, rolling = random.Random(SEED), Rolling(serving, tmp_path, MODEL)
    expected = {prompt: ask(serving, prompt, stream=False, model=f"{MODEL}:v1") for prompt in PROMPTS}
    killed, looks = Counter[str](), 0
    with (
        Comparison(endpoint=serving, expected=expected, retries=RETRIES, callers=2) as comparison,
        Split(endpoint=serving) as split,
    ):
        for _ in range(ROUNDS):
            rollout = rolling.start("v2", ERRORS)
            for step in range(draw.randint(1, 3)):
                rolling.wait_for_step(rollout, step)
                killed[harm(draw, serving)] += 1
            row = rolling.wait_for_end(rollout)
            assert row.phase == "promoted", rolling.last_look(rollout)
            assert [decision.command for decision in rolling.decisions(rollout)] == UNDISTURBED
            looks += rolling.require_explained(rollout)
            serving.linnet("rollout", "rollback", MODEL, "--yes")
            wait_for(lambda: len(processes.answering_gateways(serving)) == 2, "two gateways", 120)
    assert comparison.wrong == []
    assert split.failures == []
    answers = comparison.equal + split.answered
    told.append(
        f"{ROUNDS} rounds, kills {dict(killed)}: every sequence of decisions as undisturbed; {looks} looks "
        f"redone alike; {answers} answers, {len(comparison.cut)} cut with their gateway"
    )
