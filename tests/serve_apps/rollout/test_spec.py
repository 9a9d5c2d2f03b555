from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.config import load_yaml
from cluster.errors import ConfigError, GateFailedError, UsageError
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.world import MODEL

ERRORS = {"metric": "error_rate", "max_ratio": 1.5}


def policy(**given_):
    return RolloutSpec.model_validate({"candidate": "v2", **given_})


def refusal(**given_):
    with pytest.raises(ValidationError) as caught:
        policy(**given_)
    return caught.value.errors()[0]["msg"]


def steps(*weights):
    return [{"weight": weight} for weight in weights]


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"steps": steps(5, 50, 25, 100)}, "weights go up: 25 does not follow 50"),
        ({"steps": steps(5, 5, 100)}, "weights go up: 5 does not follow 5"),
        ({"steps": [*steps(5), {"approve": True}, *steps(4, 100)]}, "weights go up: 4 does not follow 5"),
        ({"steps": steps(5, 101)}, "less than or equal to 100"),
        ({"steps": steps(0, 100)}, "greater than 0"),
        ({"steps": steps(5, 50)}, "the last weight is 100"),
        ({"steps": []}, "at least 1 item"),
        ({"steps": [{"approve": True}]}, "the last weight is 100"),
        ({"steps": [*steps(100), {"approve": True}]}, "the last step is a weight"),
        ({"steps": [{"weight": 5, "approve": True}, *steps(100)]}, "either `weight: PERCENT` or"),
        ({"steps": [{}, *steps(100)]}, "either `weight: PERCENT` or"),
        ({"steps": [{"approve": True, "hold": "5m"}, *steps(100)]}, "`hold` and `soak` go with a weight"),
        ({"steps": [{"weight": 5, "soak": "5m"}, *steps(100)]}, "`soak` goes with `weight: 100`"),
        ({"steps": [{"weight": 100, "soak": "5m", "hold": "1m"}]}, "`soak` goes with `weight: 100`"),
        ({"steps": steps(0.005, 100)}, "steps of 0.01"),
        ({"steps": [{"weight": 5, "hold": 600}, *steps(100)]}, "the unit is missing (d, h, m, s, ms)"),
        ({"gates": [ERRORS, ERRORS | {"max_ratio": 2}]}, "two gates are `error_rate max_ratio`"),
        ({"webhooks": [{"url": "http://ci", "kind": "gate"}]}, "is one of the `gates`"),
        ({"on_inconclusive": "rollback"}, "needs a `deadline`"),
        ({"deadline": 600}, "the unit is missing"),
        ({"baseline": "fresh", "gates": [{"metric": "error_rate", "max": "2%"}]}, "there is none"),
        ({"baseline": "new"}, "'stable' or 'fresh'"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(given_, told):
    assert told in refusal(**given_)


@pytest.mark.parametrize("alpha", [0, 1, -0.05, 1.5, float("nan"), float("inf")])
def test_alpha_is_between_0_and_1(alpha):
    assert "Input should be" in refusal(alpha=alpha)


FILE = """\
candidate: v2
steps:
  - {weight: 5}
  - {weight: 100}
gates:
  - {metric: error_rate, max_ratio: 1.5}
  - metric: ttft
    quantile: 0.95
    max: 800ms
"""


def of_yaml(tmp_path, text):
    file = tmp_path / "canary.yaml"
    file.write_text(text)
    return load_yaml(file, RolloutSpec)


def told_of(tmp_path, before, after):
    assert before in FILE
    with pytest.raises(ConfigError) as caught:
        of_yaml(tmp_path, FILE.replace(before, after))
    return caught.value


def test_a_file_is_read_with_defaults(tmp_path):
    read = of_yaml(tmp_path, FILE)
    assert [step.weight for step in read.steps] == [5, 100]
    assert [gate.name for gate in read.gates] == ["error_rate max_ratio", "ttft p95 max"]
    assert read.alpha == 0.05


@pytest.mark.parametrize(
    ("before", "after", "line", "told"),
    [
        ("metric: error_rate", "metric: eror_rate", 6, "error_rate"),
        ("max: 800ms", "max: 0.8", 7, "the unit is missing"),
        ("{weight: 5}", "{weight: 105}", 3, "105"),
        ("candidate: v2", "alpha: 2", 1, "less than 1"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, before, after, line, told):
    error = told_of(tmp_path, before, after)
    assert f"canary.yaml:{line}:" in error.message
    assert told in error.message


def test_an_unknown_key_gets_the_nearest_with_its_line(tmp_path):
    error = told_of(tmp_path, "    quantile: 0.95", "    quantil: 0.95")
    assert "canary.yaml:8:" in error.message
    assert "quantile" in error.message


BANNED = {"metric": "banned_word_rate", "max": "1%"}
SCRIPTS = {"metric": "wrong_script_rate", "max_ratio": 2}
PAIRS = {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"}


@pytest.mark.parametrize(
    ("gate", "told", "accepted"),
    [
        (BANNED, "texts: {banned: [WORD, …]}", {"texts": {"banned": ["foo"]}}),
        (SCRIPTS, "texts: {scripts: [latin, …]}", {"texts": {"scripts": ["latin"]}}),
        (PAIRS, "shadow: {sample: 0.2}", {"shadow": {"sample": 0.2}}),
    ],
)
def test_a_gate_on_what_nobody_counts_is_refused_with_what_would_be_counted(gate, told, accepted):
    with pytest.raises(ValidationError) as caught:
        RolloutSpec.model_validate({"gates": [gate]})
    assert told in str(caught.value)
    assert RolloutSpec.model_validate({"gates": [gate], **accepted}).gates


def test_a_candidate_that_is_stable_cannot_be_rolled_out(store):
    with pytest.raises(UsageError) as caught:
        Rollouts(store).plan_begin(MODEL, "v1", RolloutSpec())
    assert caught.value.code == "rollout.candidate_is_stable"


def test_a_candidate_with_another_tokenizer_needs_the_policys_word(store):
    world.add_version(store, "v4", tokenizer="x" * 64)
    with pytest.raises(GateFailedError, match="another tokenizer"):
        Rollouts(store).plan_begin(MODEL, "v4", RolloutSpec())
    plan = Rollouts(store).plan_begin(MODEL, "v4", RolloutSpec(allow_tokenizer_change=True))
    assert plan.decision.policy.candidate == "v4"


LONG = [*steps(0.5, 25), {"approve": True}, {"weight": 100, "soak": "24h"}]
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.sampled_from(
            [steps(100), [*steps(0.5, 25), {"approve": True}, {"weight": 100, "soak": "24h"}]]
        ),
        "match": st.just([{"header": {"X-Region": "eu"}}, {"key_prefix": "beta-"}]),
        "shadow": st.sampled_from([{"sample": 0.2, "when": "thin"}, {"sample": 1}]),
        "texts": st.just({"banned": ["foo"], "scripts": ["latin"], "per_second": 5}),
        "gates": st.lists(
            st.sampled_from(
                [
                    ERRORS | {"tolerate": "0.3%"},
                    {"metric": "ttft", "quantile": 0.95, "max": "1.5s"},
                    {"metric": "error_rate", "max": "2%", "for": "90s"},
                    {"prometheus": {"url": "http://p", "query": "up"}, "max": 3},
                    {"webhook": {"url": "http://ci", "kind": "gate", "timeout": "3s"}},
                ]
            ),
            max_size=4,
            unique_by=str,
        ),
        "alpha": st.floats(0.001, 0.5),
        "on_fail": st.just("pause"),
        "deadline": st.sampled_from(["90s", "1500ms", "2h"]),
        "keep_previous": st.just("7d"),
        "webhooks": st.just([{"url": "http://ci", "kind": "confirm-step"}]),
        "slack": st.just({"url_env": "SLACK_URL"}),
        "attempt": st.integers(1, 5),
    },
)


@given(POLICIES)
def test_what_is_stored_reads_as_the_same(given_):
    read = policy(**given_)
    again = RolloutSpec.model_validate(read.stored())
    assert again == read
    assert again.sha256() == read.sha256()


def shuffled(tree: Any, draw: random.Random) -> Any:
    if isinstance(tree, dict):
        keys = list(tree)
        draw.shuffle(keys)
        return {key: shuffled(tree[key], draw) for key in keys}
    return [shuffled(each, draw) for each in tree] if isinstance(tree, list) else tree


@given(POLICIES, st.integers(0, 1000))
def test_the_hash_is_of_what_is_meant_whatever_the_order_of_keys(given_, seed):
    draw = random.Random(seed)
    read = policy(**given_)
    assert policy(**shuffled(given_, draw)).sha256() == read.sha256()
    assert RolloutSpec.model_validate(shuffled(read.stored(), draw)).sha256() == read.sha256()


@pytest.mark.parametrize(
    "written_out",
    [
        {"alpha": 0.05, "on_fail": "rollback", "baseline": "stable", "attempt": 1, "start_deadline": "15m"},
        {"start_deadline": "900s", "keep_previous": "60m", "texts": {}, "match": [], "webhooks": []},
        {"gates": [ERRORS | {"min_samples": 20, "severity": "normal", "source": "traffic"}]},
    ],
)
def test_defaults_that_are_written_out_change_no_hash(written_out):
    assert policy(**{"gates": [ERRORS], **written_out}).sha256() == policy(gates=[ERRORS]).sha256()


@pytest.mark.parametrize(
    "other", [{"attempt": 2}, {"candidate": "v3"}, {"alpha": 0.1}, {"steps": steps(100)}]
)
def test_another_policy_has_another_hash(other):
    assert policy(**other).sha256() != policy().sha256()


def test_a_plain_threshold_is_the_same_policy_with_its_own_least_number_written_out():
    plain = {"metric": "error_rate", "max": "5%", "for": "5m"}
    least = {number: policy(gates=[plain | {"min_samples": number}]).sha256() for number in (20, 50, 100)}
    assert policy(gates=[plain]).sha256() == least[100]
    assert len(set(least.values())) == 3
