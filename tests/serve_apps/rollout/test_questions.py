from __future__ import annotations

import pytest

from cluster.tally import Pairs, Sketch, VersionTally
from serve_apps.rollout import questions
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.terms import Direction, Kind
from serve_apps.rollout.looks import Counted, Told
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.sketch import SketchBuilder


def policy(*gates, **changes):
    given = {"candidate": "v2", "shadow": {"sample": 0.2}, "gates": list(gates), **changes}
    return RolloutSpec.model_validate(given)


def question(**gate):
    spec = policy(gate)
    return questions.tests(spec)[spec.gates[0].name]


def sketch(*values):
    builder = SketchBuilder()
    for value in values:
        builder.add(value)
    return Sketch.model_validate(builder.to_json())


@pytest.mark.parametrize(
    ("gate", "kind", "limit", "direction"),
    [
        ({"metric": "error_rate", "max_ratio": 1.5}, Kind.RATIO, 1.5, Direction.HIGHER),
        ({"metric": "error_rate", "max": "2%"}, Kind.RATE, 0.02, Direction.HIGHER),
        ({"metric": "error_rate", "max": "2%", "for": "5m"}, Kind.THRESHOLD, 0.02, Direction.HIGHER),
        ({"metric": "ttft", "quantile": 0.99, "max_ratio": 2}, Kind.QUANTILE_RATIO, 2, Direction.HIGHER),
        ({"metric": "ttft", "quantile": 0.95, "max": "800ms"}, Kind.QUANTILE_LIMIT, 0.8, Direction.HIGHER),
        (
            {"metric": "tokens_per_s", "quantile": 0.5, "min_ratio": 0.8},
            Kind.QUANTILE_RATIO,
            0.8,
            Direction.LOWER,
        ),
        (
            {"metric": "answer_tokens", "quantile": 0.5, "min": "20 tokens"},
            Kind.QUANTILE_LIMIT,
            20,
            Direction.LOWER,
        ),
        (
            {"metric": "answer_tokens", "quantile": 0.5, "max": "20 tokens"},
            Kind.QUANTILE_LIMIT,
            20,
            Direction.HIGHER,
        ),
        (
            {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"},
            Kind.PAIRED,
            0.02,
            Direction.HIGHER,
        ),
        (
            {"metric": "quality", "data": "s.jsonl", "max_drop": "5 points"},
            Kind.PAIRED,
            0.05,
            Direction.LOWER,
        ),
    ],
)
def test_each_form_of_a_gate_asks_its_own_question(gate, kind, limit, direction):
    test = question(**gate, min_samples=7)
    assert (test.kind, test.limit, test.direction, test.min_samples) == (kind, limit, direction, 7)
    assert test.quantile == gate.get("quantile")


def test_a_threshold_on_a_quantile_is_on_the_share_beyond_it():
    test = question(metric="ttft", quantile=0.95, max="800ms", **{"for": "2m"})
    assert (test.kind, test.duration_s) == (Kind.THRESHOLD, 120)
    assert test.limit == pytest.approx(0.05)
    test = question(metric="tokens_per_s", quantile=0.1, min="20 tokens/s", **{"for": "2m"})
    assert test.limit == 0.1


def test_more_distance_from_certainty_is_worse():
    test = question(metric="mean_logprob", quantile=0.25, min_ratio=0.8)
    assert (test.direction, test.limit, test.quantile) == (Direction.HIGHER, 1.25, 0.75)
    test = question(metric="mean_logprob", quantile=0.5, min=-2)
    assert (test.direction, test.limit, test.quantile) == (Direction.HIGHER, 2, 0.5)
    assert test.below_zero


def test_alpha_is_shared_by_the_gates_that_may_fail_by_chance():
    spec = policy(
        {"metric": "error_rate", "max_ratio": 1.5},
        {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5},
        {"metric": "cut_rate", "max_ratio": 1.5, "severity": "info"},
        {"metric": "error_rate", "max": "5%", "for": "5m"},
        {"metric": "restarts", "max": 1},
        {"webhook": {"url": "http://ci", "kind": "gate"}},
        alpha=0.1,
    )
    asked = questions.tests(spec)
    assert len(asked) == 4
    assert {test.alpha for test in asked.values()} == {0.05}


def test_whom_the_judge_does_not_decide():
    gates = [
        {"metric": "restarts", "max": 1},
        {"metric": "memory", "max_ratio": 1.2},
        {"webhook": {"url": "http://ci", "kind": "gate"}},
        {"prometheus": {"url": "http://p", "query": "up"}, "max": 3},
    ]
    assert not any(questions.is_tested(gate) for gate in policy(*gates).gates)


def added(gate, counted, past=None, told=None):
    spec = policy(gate)
    test = questions.tests(spec)[spec.gates[0].name]
    return questions.increment(spec.gates[0], test, counted, past or {}, told)


def counts(**named):
    return VersionTally(counts=named)


def test_a_rate_counts_its_events_of_its_exposure_by_revision():
    counted = [
        Counted(
            revision=1,
            candidate=counts(requests=9, texts=5, refusal=2),
            baseline=counts(requests=90, texts=50),
        ),
        Counted(revision=2, candidate=counts(texts=4)),
    ]
    found = added({"metric": "refusal_rate", "max_ratio": 2}, counted)
    assert found.blocks == (Block(5, 2, 50, 0), Block(4, 0, 0, 0))


def test_a_rate_counts_the_pairs_of_its_event_and_of_its_exposure():
    ours = counts(requests=9, pairs_requests=12, errors=3, pairs_errors=2, pairs_texts=6)
    counted = [Counted(revision=1, candidate=ours, baseline=counts(requests=90, pairs_requests=20))]
    assert added({"metric": "error_rate", "max_ratio": 2}, counted).blocks == (
        Block(9, 3, 90, 0, pairs_candidate=12, bad_pairs_candidate=2, pairs_baseline=20),
    )


def test_a_limit_on_a_quantile_counts_what_lies_beyond_it_in_each_stratum():
    counted = [
        Counted(
            revision=1,
            candidate=VersionTally(sketches={"ttft": {"p0": sketch(0.1, 0.9), "p1": sketch(2.0)}}),
            baseline=VersionTally(sketches={"ttft": {"p0": sketch(0.1)}}),
        )
    ]
    found = added({"metric": "ttft", "quantile": 0.5, "max": "800ms"}, counted)
    assert found.blocks == (Block(2, 1), Block(1, 1))


def test_below_a_limit_is_bad_where_lower_is_worse():
    paces = VersionTally(sketches={"tokens_per_s": {"p0": sketch(5.0, 50.0, 60.0)}})
    gate = {"metric": "tokens_per_s", "quantile": 0.1, "min": "20 tokens/s"}
    for more in ({}, {"for": "2m"}):
        assert added(gate | more, [Counted(revision=1, candidate=paces)]).blocks == (Block(3, 1),)
    doubts = VersionTally(sketches={"mean_logprob": {"p0": sketch(0.5, 1.0, 3.0)}})
    gate = {"metric": "mean_logprob", "quantile": 0.5, "min": -2}
    assert added(gate, [Counted(revision=1, candidate=doubts)]).blocks == (Block(3, 1),)


def test_a_ratio_of_quantiles_goes_by_the_baseline_before_this_look():
    counted = [
        Counted(
            revision=1,
            candidate=VersionTally(sketches={"ttft": {"p0": sketch(0.1, 0.5, 0.6)}}),
            baseline=VersionTally(sketches={"ttft": {"p0": sketch(0.05, 0.5)}}),
        )
    ]
    gate = {"metric": "ttft", "quantile": 0.5, "max_ratio": 2}
    assert added(gate, counted).blocks == ()
    past = {"ttft": {"p0": sketch(*[0.1] * 40)}}
    assert added(gate, counted, past).blocks == (Block(3, 2, 2, 1),)


def test_what_only_the_candidate_does_is_compared_with_nobody_and_counts_against_a_limit_of_its_own():
    """Its replicas are new, and the baseline's are not: that ends with their first requests."""
    ours = {"p0": sketch(*[0.1] * 5), "p0n": sketch(*[3.0] * 10)}
    counted = [
        Counted(
            revision=1,
            candidate=VersionTally(sketches={"ttft": ours}),
            baseline=VersionTally(sketches={"ttft": {"p0": sketch(*[0.1] * 40)}}),
        )
    ]
    past = {"ttft": {"p0": sketch(*[0.1] * 40)}}
    ratio = added({"metric": "ttft", "quantile": 0.5, "max_ratio": 2}, counted, past)
    assert ratio.blocks == (Block(5, 0, 40, 0),)
    limit = added({"metric": "ttft", "quantile": 0.5, "max": "800ms"}, counted, past)
    assert limit.blocks == (Block(5, 0), Block(10, 10))


def test_strata_come_in_one_order_in_every_process():
    """Sums of floats depend on it, and a look is done again elsewhere."""
    strata = {f"p{index}": sketch(*[0.1] * (index + 1)) for index in range(9)}
    reordered = dict(reversed(strata.items()))
    found = [
        added(
            {"metric": "ttft", "quantile": 0.5, "max": "800ms"},
            [Counted(revision=1, candidate=VersionTally(sketches={"ttft": order}))],
        )
        for order in (strata, reordered)
    ]
    assert [block.n_candidate for block in found[0].blocks] == list(range(1, 10))
    assert found[1] == found[0]


def test_shadow_pairs_are_differences_of_what_one_side_alone_shows():
    pairs = {"refusal": Pairs(n=10, both=3, only_candidate=2, only_stable=1), "empty": Pairs(n=4)}
    gate = {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"}
    counted = [Counted(revision=1, pairs=pairs), Counted(revision=2)]
    assert added(gate, counted).differences == ((1.0, 2), (-1.0, 1), (0.0, 7))


def test_a_held_out_set_adds_what_was_told():
    gate = {"metric": "quality", "data": "s.jsonl", "max_drop": "5 points"}
    assert added(gate, []).differences == ()
    told = Told(differences=((0.5, 3),), round=0)
    assert added(gate, [], told=told).differences == ((0.5, 3),)
