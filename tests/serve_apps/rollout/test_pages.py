"""What the pages on judged rollouts show is read by what reads policies, and compared with what there is."""

from __future__ import annotations

import pytest
import yaml

from cluster.config import load_yaml, validate
from serve_apps.rollout import checking
from serve_apps.rollout.gate_spec import Gate, Source, _allowed
from serve_apps.rollout.metrics import METRICS, TEXT_EVENTS
from serve_apps.rollout.outside.placeholders import Names
from serve_apps.rollout.spec import RolloutSpec
from tests.support.markdown import CHECKOUT, blocks, code, tables

README = CHECKOUT / "docs" / "rollouts" / "README.md"
FOLLOWING = "docs/rollouts/following.md"


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.file == FOLLOWING], ids=str)
def test_policies_are_read(block):
    spec = validate(yaml.safe_load(block.text), RolloutSpec, source=str(block))
    assert all(isinstance(gate, Gate) for gate in spec.gates)


def test_the_policy_that_is_shipped_is_read_names_no_candidate_and_could_be_begun():
    spec = load_yaml(CHECKOUT / "serve_apps" / "canary.yaml", RolloutSpec)
    assert spec.candidate is None
    assert not [gate.name for gate in spec.gates if gate.data or gate.prometheus or gate.webhook]
    checking.check(spec, Names("smollm2", "v2", "v1"), {})


def test_the_table_of_metrics_is_complete_and_names_their_limits():
    [(_, rows)] = tables(README, "metrics")
    listed = {}
    for names, limits, _ in rows:
        traffic, _, shadow = limits.partition("of shadow pairs")
        for name in code(names):
            listed[name] = tuple(code(traffic)), tuple(code(shadow))
    assert listed == {
        metric.name: (
            _allowed(metric, Source.TRAFFIC),
            _allowed(metric, Source.SHADOW) if metric.event in TEXT_EVENTS else (),
        )
        for metric in METRICS.values()
    }
