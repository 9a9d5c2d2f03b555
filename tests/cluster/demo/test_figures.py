from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.demo import figures
from cluster.demo.client import Answer, Question
from cluster.errors import LinnetError
from cluster.traffic import TrafficPolicy, route

POLICY = TrafficPolicy(model="smollm2", revision=3, stable="v1", candidate="v2", weight=10)


def answer(
    version: str, at: float = 0.0, *, key: str = "k", pin: str = "", error: str = "", stream: bool = False
) -> Answer:
    question = Question(key, "Hello", 1, stream=stream, pin=pin)
    return Answer(question, at, at + 0.1, version, 200, "", error)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], "v1"),
        (["v1"], "v2"),
        (["v1", "v9", "v10"], "v11"),
        (["v1", "v2-adapter"], "v3"),
        (["blue", "v2x"], "v1"),
    ],
)
def test_the_next_label_follows_all_that_are_there(labels: list[str], expected: str):
    assert figures.next_label(labels) == expected


def test_a_policy_is_read_from_a_commands_detail():
    assert figures.policy_of("smollm2", {"revision": 3, "weights": {"v1": 90.0, "v2": 10.0}}) == POLICY
    alone = figures.policy_of("smollm2", {"revision": 4, "weights": {"v2": 100.0}})
    assert (alone.stable, alone.candidate, alone.weight) == ("v2", None, 0.0)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=50, unique=True))
def test_a_split_by_the_policy_misroutes_nobody(keys: list[str]):
    found = figures.split(POLICY, [answer(route(POLICY, key), key=key) for key in keys])
    assert found.misrouted == 0
    assert found.keys == len(keys)
    assert found.observed == pytest.approx(sum(route(POLICY, key) == "v2" for key in keys) / len(keys))


def test_the_distance_is_counted_in_standard_errors():
    answers = [answer("v2" if number < 20 else "v1", key=str(number)) for number in range(100)]
    found = figures.split(POLICY, answers)
    assert found.observed == 0.2
    assert found.standard_errors == pytest.approx(0.1 / 0.03)
    assert found.misrouted > 0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Positive.", "positive"),
        (" negative\nbecause", "negative"),
        ("It is positive, not negative", "positive"),
        ("", ""),
        ("42!", ""),
        ("unpositively put", ""),
    ],
)
def test_the_label_that_is_named_first_counts(text: str, label: str):
    assert figures.first_label(text, ["negative", "positive"]) == label


def test_requests_are_counted_by_what_became_of_them():
    found = figures.requests(
        [
            answer("v1", stream=True),
            answer("v2"),
            answer("v2", error="status 503"),
            answer("", error="status 503"),
        ]
    )
    assert (found.total, found.failed, found.streams) == (4, 2, 1)
    assert found.by_version == {"v1": 1, "v2": 2}
    assert found.failures == {"status 503": 2}


def test_a_rollback_takes_from_the_command_to_the_first_old_answer():
    asked = [answer("v2", 9), answer("v2", 10.2), answer("v1", 11), answer("v1", 12), answer("v2", 20)]
    seconds = figures.rollback_seconds(asked, back_to="v1", commanded=10, until=15)
    assert seconds == pytest.approx(1.1)


def test_a_request_under_way_at_the_switch_may_still_be_answered_by_the_new_version():
    asked = [answer("v2", 11.05), answer("v1", 11)]
    assert figures.rollback_seconds(asked, back_to="v1", commanded=10, until=15) == pytest.approx(1.1)


@pytest.mark.parametrize(
    "asked", [[], [answer("v2", 11)], [answer("v1", 11, pin="v1")], [answer("v1", 11), answer("v2", 13)]]
)
def test_a_rollback_that_did_not_hold_is_an_error(asked: list[Answer]):
    with pytest.raises(LinnetError) as caught:
        figures.rollback_seconds(asked, back_to="v1", commanded=10, until=15)
    assert caught.value.code == "demo.rollback"


def test_shares_leave_pinned_and_unanswered_requests_out():
    answers = [
        answer("v1", 0.0),
        answer("v1", 0.5),
        answer("v2", 0.6),
        answer("v2", 3),
        answer("v2", 0, pin="v2"),
        answer("", 0),
    ]
    found = figures.shares(answers, 1.0)
    assert found == [(0.0, {"v1": pytest.approx(2 / 3), "v2": pytest.approx(1 / 3)}), (3.0, {"v2": 1.0})]
