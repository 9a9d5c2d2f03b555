from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.state.tables import DecisionRow
from serve_apps.rollout import propagation
from serve_apps.rollout.forecast.planning import Rollout, forecast
from serve_apps.rollout.forecast.today import Share, Today
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.sketch import SketchBuilder
from tests.serve_apps.rollout.judge.samples import sketch_of
from tests.serve_apps.rollout.judged_world import QUICK

WHOM = Rollout("tiny", "v2", "v1")


def sketch() -> Sketch:
    builder = SketchBuilder()
    for index in range(1, 1000):
        builder.add(0.1 + index / 1000)
    return Sketch.from_json(builder.to_json())


TODAY = Today(
    requests=36_000,
    seconds=3600,
    answers=36_000,
    shares={"error_rate": Share(180, 36_000)},
    sketches={"ttft": sketch()},
    source="the log",
)
ERRORS = {"metric": "error_rate", "max_ratio": 2}
TTFT = {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5}


def spec(*gates, steps=({"weight": 5}, {"weight": 50}, {"weight": 100}), **changed) -> RolloutSpec:
    return RolloutSpec.model_validate({"steps": steps, "gates": gates, **changed})


def plan(given, today=TODAY, **options):
    return forecast(given, today, WHOM, **options)


def only(step):
    [gate] = step.gates
    return gate


def test_a_step_takes_as_long_as_its_slowest_gate_or_its_hold():
    found = plan(spec(ERRORS, TTFT, steps=[{"weight": 5}, {"weight": 50, "hold": "2h"}, {"weight": 100}]))
    first, second, last = found.steps
    assert first.slowest == "error_rate max_ratio"
    assert first.seconds == max(gate.seconds_to_pass for gate in first.gates)
    assert (second.seconds, second.slowest) == (7200, None)
    assert last.seconds == 0
    assert found.seconds == first.seconds + 7200


def test_a_larger_weight_needs_less_time_for_as_many_answers():
    small, large, _ = plan(spec({**ERRORS, "tolerate": "1%"})).steps
    assert only(small).per_second == pytest.approx(0.5)
    assert only(small).seconds_to_pass == pytest.approx(only(small).samples_to_pass / 0.5)
    assert only(large).seconds_to_pass < only(small).seconds_to_pass


def test_twice_as_bad_is_measured_from_what_is_tolerated():
    plain, tolerant = (only(plan(spec(given)).steps[0]) for given in (ERRORS, {**ERRORS, "tolerate": "4%"}))
    assert plain.bad == "2.01%"
    assert tolerant.bad == "8%"
    assert tolerant.samples_to_fail is not None


def test_the_smallest_worsening_gets_smaller_with_the_time_that_a_step_has():
    def sees(hold: str) -> float:
        steps = [{"weight": 5, "hold": hold}, {"weight": 100}]
        return float(only(plan(spec(ERRORS, steps=steps)).steps[0]).smallest.rstrip("%"))

    assert 1 < sees("24h") < sees("4h") < 100


def test_quantiles_wait_until_the_baseline_is_known():
    high = {"metric": "ttft", "quantile": 0.99, "max_ratio": 1.5, "min_samples": 1}
    first, second, _ = plan(spec(high)).steps
    # 1,000 answers of the baseline, at 95% of 10 a second.
    assert only(first).seconds_to_pass - only(first).samples_to_pass / 0.5 == pytest.approx(1000 / 9.5)
    assert only(second).seconds_to_pass == pytest.approx(only(second).samples_to_pass / 5)


def test_texts_are_looked_at_only_so_often():
    text = {"metric": "repetition_rate", "max_ratio": 2, "tolerate": "2%"}
    first, second, _ = plan(spec(text, texts={"per_second": 2})).steps
    assert only(first).per_second == pytest.approx(0.5)
    assert only(second).per_second == pytest.approx(2)
    assert "not counted yet" in only(first).note


def test_shadow_pairs_come_from_stables_traffic_and_count_for_all_steps():
    pairs = {"metric": "refusal_rate", "source": "shadow", "max_increase": "5 points"}
    first, second, last = plan(spec(pairs, shadow={"sample": 0.2})).steps
    assert only(first).per_second == pytest.approx(0.2 * 9.5)
    assert first.seconds > 0
    assert second.seconds == last.seconds == 0


def test_a_gateway_has_few_copies_under_way():
    pairs = {"metric": "refusal_rate", "source": "shadow", "max_increase": "5 points"}
    slow = replace(TODAY, sketches={"e2el": sketch_of([4.0])})
    given = spec(pairs, shadow={"sample": 0.2})
    first = only(plan(given, slow).steps[0])
    assert 0.3 < first.per_second < 2 / 4
    assert first.seconds_to_pass > 3 * only(plan(given).steps[0]).seconds_to_pass
    assert first.note == "if 1 in 10 pairs differs, and one gateway copies"


def test_a_held_out_set_is_asked_in_rounds():
    quality = {"metric": "quality", "data": "set.jsonl", "max_drop": "10 points", "sample": 50, "every": "1h"}
    given = spec(quality)
    needed = only(plan(given, questions={"quality max_drop": 10_000}).steps[0]).samples_to_pass
    found = plan(given, questions={"quality max_drop": needed})
    assert only(found.steps[0]).seconds_to_pass == (-(-needed // 50) - 1) * 3600
    short = plan(given, questions={"quality max_drop": needed - 1})
    assert short.seconds is None
    assert "needs more pairs than its set has" in short.sentences[0]


def test_a_threshold_takes_its_time_once():
    first, second, _ = plan(spec({"metric": "error_rate", "max": "5%", "for": "5m"})).steps
    assert only(first).seconds_to_pass == 300
    assert only(second).seconds_to_pass == pytest.approx(20)


def test_gates_that_are_shown_hold_nothing_up():
    found = plan(spec({**ERRORS, "severity": "info"}))
    assert found.seconds == 0
    assert not only(found.steps[0]).waited_for


def test_what_others_decide_is_not_forecast():
    webhook = {"webhook": {"url": "https://checks.example.com"}}
    memory = {"metric": "memory", "max_ratio": 1.2}
    [restarts, held, asked] = plan(spec({"metric": "restarts", "max": 1}, memory, webhook)).steps[0].gates
    assert restarts.note == held.note == "at once"
    assert asked.note == "as it answers, each few seconds"


def test_a_quantity_that_nobody_has_counted_is_not_known():
    found = plan(spec({"metric": "itl", "quantile": 0.5, "max_ratio": 1.5}))
    assert only(found.steps[0]).note == "nothing of it has been counted yet: not known"


@pytest.mark.parametrize(
    ("gate", "knob"),
    [
        ({"metric": "error_rate", "max": "0.1%"}, "choose another limit"),
        ({"metric": "error_rate", "max": "0.1%", "for": "5m"}, "choose another limit"),
        ({"metric": "ttft", "quantile": 0.5, "max": "100ms"}, "choose another limit"),
    ],
)
def test_a_step_that_would_never_end_is_told_once_with_the_knob_to_turn(gate, knob):
    found = plan(spec(gate))
    assert found.seconds is None
    assert found.steps[0].seconds is None
    [sentence] = found.sentences
    assert sentence.startswith("Step 1 (5%) would never end")
    assert knob in sentence


def test_pairs_that_are_copied_at_smaller_weights_alone_never_come_at_larger_ones():
    pairs = {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"}
    steps = [{"weight": 20}, {"weight": 100}]
    found = plan(spec(pairs, steps=steps, shadow={"sample": 0.2, "when": "thin"}))
    assert "leave `when: thin` out" in found.sentences[0]


def test_a_long_step_and_a_deadline_that_comes_first_are_told():
    thin = Today(requests=1, seconds=60, answers=36_000, shares=TODAY.shares, source="the log")
    [sentence, *_] = plan(spec(ERRORS), thin).sentences
    assert "a larger weight brings more answers; `tolerate` passes" in sentence
    [sentence, *_] = plan(spec(ERRORS, deadline="10m")).sentences
    assert "longer than the deadline of 10m" in sentence


def test_without_requests_all_is_never_and_one_sentence_says_it():
    found = plan(spec(ERRORS, TTFT), per_second=0)
    assert found.seconds is None
    assert [sentence.split(":")[0] for sentence in found.sentences] == [
        "Without requests nothing can be judged"
    ]


def test_match_leaves_a_part_that_is_not_known():
    assert "`match`" in plan(spec(match=[{"key_prefix": "beta-"}])).sentences[-1]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 100), st.floats(1.5, 10))
def test_more_traffic_never_takes_longer(per_second, times):
    given_ = spec({**ERRORS, "tolerate": "1%"}, TTFT)
    slow, quick = (plan(given_, per_second=rate).seconds for rate in (per_second, per_second * times))
    assert quick <= slow


def test_it_tells_about_what_happens(store, judged):
    """Of the order of what a simulated rollout takes."""
    judged.errors.update(v1=0.005, v2=0.005)
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    with store.database.snapshot() as session:
        rows = session.query(DecisionRow).filter_by(rollout_id=rollout).order_by(DecisionRow.seq)
        taken = [propagation.decided_at(session, row) for row in rows if row.command == "advance"]
    today = Today(
        requests=360_000,
        seconds=3600,
        answers=36_000,
        shares={"error_rate": Share(180, 36_000)},
        sketches={"ttft": sketch()},
    )
    first = forecast(QUICK, today, WHOM).steps[0].seconds
    assert (taken[1] - taken[0]).total_seconds() / 3 < first < (taken[1] - taken[0]).total_seconds() * 3


def test_fresh_replicas_have_as_much_traffic_as_the_candidate_so_a_verdict_takes_longer():
    against_all, against_fresh = (
        plan(spec(ERRORS, TTFT, baseline=baseline)).steps for baseline in ("stable", "fresh")
    )
    for all_of_it, fresh in zip(against_all[0].gates, against_fresh[0].gates, strict=True):
        assert fresh.per_second == pytest.approx(all_of_it.per_second)
        assert fresh.seconds_to_pass > all_of_it.seconds_to_pass
    # From half of the traffic on, both have the same baseline.
    assert against_fresh[1:] == against_all[1:]


def test_it_says_beforehand_that_no_fresh_replica_would_come():
    [told] = plan(spec(TTFT, baseline="fresh"), no_fresh="v1 is an adapter").sentences
    assert told == ("Steps below 50% would hold, since no fresh replica of stable serves: v1 is an adapter.")
