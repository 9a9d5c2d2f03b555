from __future__ import annotations

import pytest

from cluster.state import looks
from serve_apps.rollout import reading
from serve_apps.rollout.looks import LookInputs
from tests.serve_apps.rollout.judged_world import World


@pytest.fixture
def judged(store):
    return World(store)


def read(judged, rollout):
    with judged.store.database.snapshot() as session:
        return reading.read(session, rollout, judged.clock())


def counted(store, rollout):
    """Requests of both versions over all looks."""
    with store.database.snapshot() as session:
        inputs = [LookInputs.model_validate(row.inputs) for row in looks.of_rollout(session, rollout)]
    sides = [side for one in inputs for part in one.counted for side in (part.candidate, part.baseline)]
    return sum(side.counts.get("requests", 0) for side in sides)


def test_a_gateway_whose_clock_goes_wrong_for_a_while_is_counted_once(store, judged):
    rollout, controller = judged.begin().rollout_id, judged.controller()
    judged.run(controller, rollout, 3)
    for jump in (-7200, 7200):
        judged.clock.pass_(jump)
        judged.serve()
        controller.tick()
    assert counted(store, rollout) == judged.asked.total()
