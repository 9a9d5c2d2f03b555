"""Rollouts whose controller and gateways are killed between their steps, under streams."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.e2e import processes
from tests.e2e.comparison import PROMPTS, RETRIES, Comparison, CutError, ask
from tests.e2e.rolling import Rolling, controller
from tests.support.endpoint import MODEL, Endpoint, wait_for
from tests.support.repeating import Repeating

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(5400)]

ROUNDS = 30
SEED = 20261127
ERRORS = {"metric": "error_rate", "max": "20%", "min_samples": 20}
UNDISTURBED = ["begin", "advance", "advance", "advance", "promote"]


@dataclass(kw_only=True)
class Split(Repeating):
    """Callers of whichever version the split gives them, who ask again as OpenAI's client does."""

    endpoint: Endpoint
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def once(self, number: int, count: int) -> None:
        """One short stream."""
        try:
            ask(self.endpoint, f"{number}-{count}", stream=True, retries=RETRIES, model=MODEL, tokens=8)
            self.answered += 1
        except CutError:
            # With its gateway: `Comparison` counts how often.
            self.answered += 1
        except (OSError, AssertionError) as error:
            self.failures.append(repr(error))


def harm(draw: random.Random) -> None:
    """Kill the controller, or a gateway."""
    found = draw.choice([lambda: processes.titled("ServeReplica:rollouts"), processes.gateways])()
    draw.choice(sorted(found, key=lambda process: process.pid)).kill()


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
    killed, looks = 0, 0
    with (
        Comparison(endpoint=serving, expected=expected, retries=RETRIES, callers=2) as comparison,
        Split(endpoint=serving) as split,
    ):
        for _ in range(ROUNDS):
            rollout = rolling.start("v2", ERRORS)
            for step in range(draw.randint(1, 3)):
                rolling.wait_for_step(rollout, step)
                harm(draw)
                killed += 1
            row = rolling.wait_for_end(rollout)
            assert row.phase == "promoted", rolling.last_look(rollout)
            assert [decision.command for decision in rolling.decisions(rollout)] == UNDISTURBED
            looks += rolling.require_explained(rollout)
            serving.linnet("rollout", "rollback", MODEL, "--yes")
            wait_for(lambda: len(processes.answering_gateways(serving)) == 2, "two gateways", 120)
    assert comparison.wrong == []
    assert split.failures == []
    told.append(
        f"{ROUNDS} rounds, {killed} kills: every sequence of decisions as undisturbed; {looks} looks redone "
        f"alike; {comparison.equal + split.answered} answers, {len(comparison.cut)} cut with their gateway"
    )
