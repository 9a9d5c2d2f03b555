from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_apps.rollout.judge.terms import Direction, Kind, Test

GOOD = [
    {"kind": "ratio", "limit": 1.5, "tolerate": 0.01},
    {"kind": "rate", "limit": 0.02},
    {"kind": "quantile_ratio", "limit": 2.0, "quantile": 0.99},
    {"kind": "quantile_ratio", "limit": 0.8, "quantile": 0.5, "direction": "lower"},
    {"kind": "quantile_limit", "limit": 0.8, "quantile": 0.95},
    {"kind": "paired", "limit": 0.0, "direction": "lower"},
    {"kind": "threshold", "limit": 0.0, "duration_s": 300},
]


@pytest.mark.parametrize("given", GOOD, ids=lambda given: given["kind"])
def test_a_test_comes_back_from_json(given):
    test = Test.model_validate(given)
    assert Test.model_validate_json(test.model_dump_json()) == test
    assert (test.alpha, test.beta, test.min_samples) == (0.05, 0.1, 100)
    assert test.is_higher_worse is (test.direction is Direction.HIGHER)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"kind": "ratio", "limit": 1.5, "quantile": 0.5}, "ratio takes no quantile"),
        ({"kind": "quantile_ratio", "limit": 1.5}, "takes a quantile"),
        ({"kind": "quantile_limit", "limit": 1.5, "quantile": 1.0}, "less than 1"),
        ({"kind": "rate", "limit": 0.02, "duration_s": 5}, "takes no duration_s"),
        ({"kind": "threshold", "limit": 0.02}, "takes a duration_s"),
        ({"kind": "rate", "limit": 0.02, "tolerate": 0.01}, "rate takes no tolerate"),
        ({"kind": "rate", "limit": 2.0}, "share below 1, not 2"),
        ({"kind": "paired", "limit": 5.0}, "share below 1, not 5"),
        ({"kind": "ratio", "limit": 0.0}, "above 0"),
        ({"kind": "ratio", "limit": float("inf")}, "finite"),
        ({"kind": "ratio", "limit": -1.0}, "greater than or equal to 0"),
        ({"kind": "ratio", "limit": 1.5, "alpha": 1.0}, "less than 1"),
        ({"kind": "ratio", "limit": 1.5, "beta": 0.0}, "greater than 0"),
        ({"kind": "ratio", "limit": 1.5, "min_samples": 0}, "greater than or equal to 1"),
        ({"kind": "ration", "limit": 1.5}, "'quantile_ratio'"),
        ({"kind": "ratio", "limit": 1.5, "sure": True}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, match):
    with pytest.raises(ValidationError, match=match):
        Test.model_validate(wrong)


def test_every_kind_has_an_example_here():
    assert {given["kind"] for given in GOOD} == {kind.value for kind in Kind}
