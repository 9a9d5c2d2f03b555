from __future__ import annotations

import json
import time
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tally import Pairs, Sketch, VersionTally
from serve_apps.rollout import reading
from serve_apps.rollout.bookmark import Bookmark
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.look import LONGEST_GAP_S, look
from serve_apps.rollout.looks import Counted, LookInputs, Progress, Signals, Told
from serve_apps.rollout.outside.verdict import Answer
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase
from serve_apps.sketch import SketchBuilder

START = datetime(2026, 3, 1, 12)
HOOK = {"url": "http://ci/gate", "kind": "gate"}
EVERY_KIND = RolloutSpec.model_validate(
    {
        "candidate": "v2",
        "steps": [{"weight": 10}, {"weight": 100}],
        "gates": [
            {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "1%", "min_samples": 10},
            {"metric": "error_rate", "max": "20%", "min_samples": 10},
            {"metric": "error_rate", "max": "20%", "for": "50s", "min_samples": 10},
            {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 10},
            {"metric": "ttft", "quantile": 0.9, "max": "2s", "min_samples": 10},
            {"metric": "tokens_per_s", "quantile": 0.5, "min_ratio": 0.8, "min_samples": 10},
            {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"},
            {"metric": "quality", "data": "set.jsonl", "max_drop": "5 points", "min_samples": 10},
            {"metric": "restarts", "max": 1},
            {"metric": "memory", "max_ratio": 1.2, "severity": "info"},
            {"webhook": HOOK},
            {"prometheus": {"url": "http://prometheus", "query": "up"}, "max": 3},
        ],
        "shadow": {"sample": 0.2},
    }
)
WEBHOOK, QUALITY = "webhook http://ci/gate", "quality max_drop"


def signals(**changes):
    fields = {
        "phase": Phase.PROGRESSING,
        "step": 0,
        "approved": -1,
        "weight": 10.0,
        "revision": 2,
        "gateways": {"g1": 2},
        "serving": 1,
    }
    return Signals(**{**fields, **changes})


def inputs(seconds=0.0, counted=(), told=None, **changes):
    at = START + timedelta(seconds=seconds)
    return LookInputs(at=at, signals=signals(**changes), counted=tuple(counted), told=told or {})


def sketch(values):
    builder = SketchBuilder()
    for value in values:
        builder.add(value)
    return Sketch.model_validate(builder.to_json())


def side(requests, errors=0, ttft=0.1, strata=("p0",)):
    pace = 1 / (ttft or 1e-3)
    return VersionTally(
        counts={"requests": requests, "errors": errors},
        sketches={
            "ttft": {stratum: sketch([ttft] * (requests - errors)) for stratum in strata},
            "tokens_per_s": {stratum: sketch([pace] * (requests - errors)) for stratum in strata},
        },
    )


def one(candidate, baseline, pairs=None):
    return Counted(revision=2, candidate=candidate, baseline=baseline, pairs=pairs or {})


def watched(*seen, spec=EVERY_KIND):
    progress = Progress()
    for each in seen:
        progress, _ = look(spec, progress, each)
    return progress.watched_s


def test_only_time_in_which_somebody_looked_counts():
    assert watched(inputs(0), inputs(10), inputs(25)) == 25
    assert watched(inputs(0), inputs(10_000)) == LONGEST_GAP_S


def test_a_clock_that_goes_back_takes_nothing_away():
    assert watched(inputs(0), inputs(30), inputs(-3600), inputs(-3590)) == 40


def test_a_pause_is_not_a_part_of_the_step():
    paused = [inputs(seconds, phase=Phase.PAUSED) for seconds in (20, 50, 80)]
    assert watched(inputs(0), inputs(10), *paused, inputs(90)) == 20


def test_with_a_new_step_the_time_begins_anew():
    assert watched(inputs(0), inputs(30), inputs(40, step=1), inputs(45, step=1)) == 5


def test_what_the_baseline_was_is_kept_over_steps_and_what_is_shown_is_of_one():
    counted = [one(side(20), side(50))]
    progress, _ = look(EVERY_KIND, Progress(), inputs(0, counted))
    progress, _ = look(EVERY_KIND, progress, inputs(1, counted))
    assert sum(n for _, n in progress.past["ttft"]["p0"].buckets) == 100
    assert sum(n for _, n in progress.shown["ttft"].candidate.buckets) == 40
    progress, _ = look(EVERY_KIND, progress, inputs(2, counted, step=1))
    assert sum(n for _, n in progress.past["ttft"]["p0"].buckets) == 150
    assert sum(n for _, n in progress.shown["ttft"].candidate.buckets) == 20


def test_the_newest_word_from_outside_counts_until_there_is_another():
    progress, outcome = look(EVERY_KIND, Progress(), inputs(0))
    assert outcome.findings[WEBHOOK].reason == "it has not answered yet"
    agrees = {WEBHOOK: Told(answer=Answer(verdict="pass", reason="green"))}
    progress, outcome = look(EVERY_KIND, progress, inputs(1, told=agrees))
    assert outcome.findings[WEBHOOK].verdict is Verdict.PASS
    progress, outcome = look(EVERY_KIND, progress, inputs(2))
    assert outcome.findings[WEBHOOK].verdict is Verdict.PASS
    refuses = {WEBHOOK: Told(answer=Answer(verdict="fail", reason="red"))}
    _, outcome = look(EVERY_KIND, progress, inputs(3, told=refuses))
    assert outcome.conclusion.why == f"{WEBHOOK} failed: red"


def test_lost_replicas_beyond_the_gates_limit_fail_it():
    _, outcome = look(EVERY_KIND, Progress(), inputs(0, lost=2))
    assert outcome.findings["restarts max"].reason == "2 replicas of the candidate were lost, limit 1"
    assert (outcome.conclusion.action, outcome.conclusion.gate) == (Action.ROLL_BACK, "restarts max")


def test_a_look_of_before_says_nothing_of_memory_and_is_read_as_it_was():
    stored = inputs(0).model_dump(mode="json")
    del stored["signals"]["memory"], stored["signals"]["stable_memory"]
    _, outcome = look(EVERY_KIND, Progress(), LookInputs.model_validate(stored))
    assert outcome.findings["memory max_ratio"].verdict is Verdict.INCONCLUSIVE


def test_rounds_of_a_held_out_set_are_numbered_and_one_that_gave_nothing_says_why():
    told = {QUALITY: Told(differences=((0.0, 30), (-1.0, 1)), round=0)}
    progress, _ = look(EVERY_KIND, Progress(), inputs(0, told={QUALITY: Told(missing="nobody answers")}))
    assert progress.rounds == {}
    _, outcome = look(EVERY_KIND, progress, inputs(1))
    assert outcome.findings[QUALITY].reason == "nobody answers"
    progress, outcome = look(EVERY_KIND, progress, inputs(2, told=told))
    assert progress.rounds == {QUALITY: 1}
    assert outcome.findings[QUALITY].samples == 31


@pytest.fixture
def in_zone(monkeypatch):
    def move(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def test_a_look_is_the_same_in_every_time_zone(in_zone):
    found = []
    for zone in ("UTC", "Asia/Kathmandu"):
        in_zone(zone)
        found.append(look(EVERY_KIND, Progress(), inputs(0, [one(side(20), side(50))])))
    assert found[0] == found[1]


TALLIES = st.builds(
    side,
    st.integers(0, 60),
    ttft=st.sampled_from([0.0, 0.1, 0.3, 3.0]),
    strata=st.sampled_from([("p0",), ("p1", "p0"), ("p2", "p1", "p0")]),
)
PAIRS = st.builds(
    lambda n, only: {"refusal": Pairs(n=n + only, only_candidate=only)}, *[st.integers(0, 9)] * 2
)
ANSWERS = st.builds(Answer, verdict=st.sampled_from(["pass", "inconclusive"]), reason=st.just("so"))
TOLD = st.dictionaries(
    st.sampled_from([WEBHOOK, QUALITY]),
    st.builds(
        Told,
        differences=st.lists(
            st.tuples(st.sampled_from([-1.0, 0.0, 0.125, 1.0]), st.integers(1, 9)), max_size=3
        ).map(tuple),
        round=st.none() | st.integers(0, 3),
        answer=st.none() | ANSWERS,
    ),
)
LOOKS = st.lists(
    st.tuples(st.floats(-100, 100), st.lists(st.builds(one, TALLIES, TALLIES, PAIRS), max_size=2), TOLD),
    max_size=6,
)


@given(LOOKS, st.integers(0, 6))
def test_what_is_known_survives_being_stored(seen, last_of_the_first_step):
    """Else a look that is done again, on what was never stored, would say something else."""
    kept = stored = Progress()
    now = 0.0
    for index, (seconds, counted, told) in enumerate(seen):
        now += seconds
        each = inputs(now, counted, told, step=int(index > last_of_the_first_step))
        kept, outcome = look(EVERY_KIND, kept, each)
        again = LookInputs.model_validate_json(each.model_dump_json())
        stored, same = look(EVERY_KIND, stored, again)
        assert same == outcome
        text = json.dumps(reading.to_store(stored, Bookmark()), allow_nan=False)
        stored, _ = reading.known(json.loads(text))
        assert stored == kept


def test_answers_count_for_the_step_whose_weight_sent_them():
    mine = VersionTally(counts={"requests": 3})
    seen = (Counted(revision=1, candidate=mine), Counted(revision=2, candidate=mine))
    known, _ = look(EVERY_KIND, Progress(), LookInputs(at=START, signals=signals(), counted=seen))
    assert known.answered == 3
    known, _ = look(EVERY_KIND, known, LookInputs(at=START, signals=signals(), counted=seen))
    assert known.answered == 6
    known, _ = look(
        EVERY_KIND, known, LookInputs(at=START, signals=signals(step=1, revision=3), counted=seen)
    )
    assert known.answered == 0


@pytest.mark.parametrize("again", [0, 5])
def test_each_round_of_a_held_out_set_is_bet_on_once_and_in_order(again):
    told = Told(differences=((0.0, 40),), round=0)
    known, first = look(EVERY_KIND, Progress(), LookInputs(at=START, signals=signals(), told={QUALITY: told}))
    other = told.model_copy(update={"round": again})
    known, second = look(EVERY_KIND, known, LookInputs(at=START, signals=signals(), told={QUALITY: other}))
    assert second.findings[QUALITY] == first.findings[QUALITY]
    assert known.rounds == {QUALITY: 1}
    following = told.model_copy(update={"round": 1})
    known, third = look(EVERY_KIND, known, LookInputs(at=START, signals=signals(), told={QUALITY: following}))
    assert third.findings[QUALITY].samples == 80
