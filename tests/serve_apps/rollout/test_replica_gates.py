from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.state.tables import ReplicaRow
from serve_apps.rollout import view
from serve_apps.rollout.explaining import explain_rollout
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.looks import Signals
from serve_apps.rollout.replica_gates import find
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Phase
from serve_apps.rollout.tree import tree
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL

GIB = 2**30
RESTARTS = Gate.model_validate({"metric": "restarts", "max": 1})
LIMIT = Gate.model_validate({"metric": "memory", "max": "12 GiB"})
RATIO = Gate.model_validate({"metric": "memory", "max_ratio": 1.2})


def found(gate, **signals):
    common = {
        "phase": Phase.PROGRESSING,
        "step": 0,
        "approved": -1,
        "weight": 5.0,
        "revision": 2,
        "serving": 1,
    }
    return find(gate, Signals(**{**common, **signals}))


@pytest.mark.parametrize(
    ("lost", "verdict", "said"),
    [
        (1, Verdict.PASS, "1 replicas of the candidate were lost, limit 1"),
        (2, Verdict.FAIL, "2 replicas of the candidate were lost, limit 1"),
    ],
)
def test_restarts_are_counted(lost, verdict, said):
    finding = found(RESTARTS, lost=lost)
    assert (finding.verdict, finding.reason, finding.effect, finding.limit) == (verdict, said, lost, 1)


@pytest.mark.parametrize(
    ("gate", "ours", "theirs", "verdict", "said"),
    [
        (LIMIT, 12, None, Verdict.PASS, "the largest replica of the candidate holds 12 GiB, limit 12 GiB"),
        (LIMIT, 12.5, 99, Verdict.FAIL, "the largest replica of the candidate holds 12.5 GiB, limit 12 GiB"),
        (
            RATIO, 4.4, 4, Verdict.PASS,
            "the largest replica of the candidate holds 4.4 GiB against 4 GiB: 1.1 times, limit 1.2",
        ),
        (
            RATIO, 5, 4, Verdict.FAIL,
            "the largest replica of the candidate holds 5 GiB against 4 GiB: 1.25 times, limit 1.2",
        ),
    ],
)  # fmt: skip
def test_memory_is_compared_with_its_limit_or_with_stables(gate, ours, theirs, verdict, said):
    finding = found(gate, memory=int(ours * GIB), stable_memory=theirs and theirs * GIB)
    assert (finding.verdict, finding.reason) == (verdict, said)
    assert finding.effect == pytest.approx(ours / theirs if gate is RATIO else ours * GIB)
    assert finding.limit == (1.2 if gate is RATIO else 12 * GIB)


@pytest.mark.parametrize(
    ("gate", "signals", "said"),
    [
        (LIMIT, {}, "a replica of the candidate has not told its memory yet"),
        (RATIO, {"stable_memory": GIB}, "a replica of the candidate has not told its memory yet"),
        (LIMIT, {"serving": 0}, "no replica of the candidate serves"),
        (RATIO, {"memory": GIB}, "no replica of stable has told its memory to compare with"),
    ],
)
def test_what_is_not_told_is_neither_passed_nor_failed(gate, signals, said):
    finding = found(gate, **signals)
    assert (finding.verdict, finding.reason, finding.effect) == (Verdict.INCONCLUSIVE, said, None)


HELD = st.none() | st.integers(0, 2**45)


@given(st.sampled_from([LIMIT, RATIO]), HELD, HELD, st.integers(0, 2))
def test_no_pass_without_a_figure(gate, ours, theirs, serving):
    finding = found(gate, memory=ours, stable_memory=theirs, serving=serving)
    if ours is None or (gate is RATIO and theirs is None):
        assert finding.verdict is Verdict.INCONCLUSIVE
    elif gate is LIMIT:
        assert (finding.verdict is Verdict.PASS) == (ours <= 12 * GIB)


BOTH = [{"metric": "memory", "max": "12 GiB"}, {"metric": "memory", "max_ratio": 1.2}]


@pytest.fixture
def hold(store):
    """Sets what each replica of a version holds, in GiB."""

    def put(**held):
        with store.database.transaction() as session:
            for row in session.query(ReplicaRow).filter_by(model=MODEL):
                if row.version in held:
                    row.detail = {**row.detail, "memory_bytes": int(held[row.version] * GIB)}

    return put


def judged_by_memory(**more):
    return RolloutSpec.model_validate({**QUICK.stored(), "gates": [*QUICK.stored()["gates"], *BOTH], **more})


def test_a_candidate_that_holds_as_much_as_stable_goes_all_the_way(judged, hold):
    hold(v1=4, v2=4.5)
    state = judged.run(judged.controller(), judged.begin(judged_by_memory()).rollout_id)
    assert state.phase is Phase.PROMOTED


def test_without_a_word_of_its_memory_it_holds(judged, store, hold):
    rollout = judged.begin(judged_by_memory()).rollout_id
    state = judged.run(judged.controller(), rollout, 60)
    assert (state.phase, state.step) == (Phase.PROGRESSING, 0)


def test_one_that_holds_too_much_is_taken_back_shown_and_explained(judged, store, hold):
    hold(v1=4, v2=4.5)
    rollout, controller = judged.begin(judged_by_memory()).rollout_id, judged.controller()
    judged.run(controller, rollout, 3)
    hold(v2=6)
    state = judged.run(controller, rollout)
    assert (state.phase, state.reason.value) == (Phase.ROLLED_BACK, "gate_failed")
    said = "the largest replica of the candidate holds 6 GiB against 4 GiB: 1.5 times, limit 1.2"
    with store.database.snapshot() as session:
        status = view.status_of(session, MODEL, judged.clock())
        explained = explain_rollout(session, rollout)
    assert any(line.endswith(f"memory max_ratio      fail          {said}") for line in tree(status))
    shown = {gate.gate: gate for gate in status.judged.gates}
    assert (shown["memory max"].measured, shown["memory max"].limit) == ("6 GiB", "at most 12 GiB")
    assert explained.agrees
    last = {gate.gate: gate for gate in explained.decisions[-1].gates}
    assert (last["memory max_ratio"].reason, last["memory max_ratio"].log_e_worse) == (said, None)
    assert explained.decisions[-1].reason == f"memory max_ratio failed: {said}"
