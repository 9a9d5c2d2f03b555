from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_apps.rollout.outside.quality.scores import REASONS, MissingPair, Pair, PairedScores, paired

SCORES = st.sampled_from([0.0, 0.5, 1.0])
PAIRS = st.builds(
    Pair, st.integers(0, 99), SCORES, SCORES, st.sampled_from(["", "stable", "candidate"]), st.booleans()
)
MISSING = st.builds(MissingPair, st.integers(0, 99), st.sampled_from("abcdefgh"))


def summed(*found, repeated=0) -> PairedScores:
    return paired(found, repeated=repeated, set_sha256="0" * 64)


def test_differences_are_candidate_minus_stable_in_the_order_of_asking():
    found = summed(Pair(9, 1, 0), Pair(2, 0, 1), Pair(5, 1, 1), MissingPair(4, "late"), repeated=3)
    assert found.differences == (-1, 1, 0)
    assert found.indices == (9, 2, 5)
    assert (found.n, found.stable_mean, found.candidate_mean) == (3, 2 / 3, 2 / 3)
    assert found.counts() == {-1: 1, 0: 1, 1: 1}
    assert (found.missing, found.repeated) == ({"late": 1}, 3)


def test_no_pairs_have_no_means():
    found = summed(MissingPair(0, "late"))
    assert (found.n, found.stable_mean, found.candidate_mean, found.counts()) == (0, None, None, {})


def test_what_was_not_answered_and_what_the_judge_did_not_agree_on_is_counted():
    found = summed(
        Pair(0, 1, 0, unanswered="candidate"),
        Pair(1, 0, 1, unanswered="stable"),
        Pair(2, 1, 0, unanswered="candidate"),
        Pair(3, 0.5, 0.5, agreed=False),
    )
    assert (found.stable_unanswered, found.candidate_unanswered, found.judge_disagreed) == (1, 2, 1)


def test_reasons_stay_few():
    found = summed(*(MissingPair(0, f"port {number}") for number in range(20)), MissingPair(0, "port 3"))
    assert len(found.missing) == REASONS + 1
    assert found.missing["port 3"] == 2
    assert found.missing["other reasons"] == 15


@given(found=st.lists(st.one_of(PAIRS, MISSING)))
def test_every_question_is_in_it_once_and_the_figures_fit_together(found):
    scores = summed(*found)
    assert scores.n + sum(scores.missing.values()) == len(found)
    assert scores.n == len(scores.differences) == len(scores.indices) == sum(scores.counts().values())
    assert all(-1 <= difference <= 1 for difference in scores.differences)
    if scores.n:
        drop = sum(scores.differences) / scores.n
        assert scores.candidate_mean - scores.stable_mean == pytest.approx(drop)


@given(found=st.lists(st.one_of(PAIRS, MISSING)))
def test_what_is_stored_reads_again_as_it_was(found):
    scores = summed(*found)
    assert PairedScores.model_validate_json(scores.model_dump_json()) == scores


def test_it_cannot_be_changed():
    with pytest.raises(ValidationError):
        summed().n = 3
