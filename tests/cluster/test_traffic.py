import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.judging import Fresh, Judging
from cluster.traffic import BUCKETS, TrafficPolicy, bucket, is_in_second_slice, route

KEYS = st.text(max_size=40)
WEIGHTS = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


def policy(weight: float, **changes) -> TrafficPolicy:
    known = {"model": "m", "revision": 1, "stable": "v1", "candidate": "v2", "weight": weight}
    return TrafficPolicy(**(known | changes))


@given(key=KEYS, low=WEIGHTS, high=WEIGHTS)
def test_raising_a_weight_moves_nobody_back(key, low, high):
    low, high = sorted((low, high))

    if route(policy(low), key) == "v2":
        assert route(policy(high), key) == "v2"


@given(key=KEYS, weight=WEIGHTS)
def test_the_answer_depends_on_model_weight_and_key_alone(key, weight):
    assert route(policy(weight), key) == route(policy(weight, revision=9), key)
    assert route(policy(weight), key) in ("v1", "v2")


@given(key=KEYS)
def test_the_ends_are_absolute(key):
    assert route(policy(0.0), key) == "v1"
    assert route(policy(100.0), key) == "v2"
    assert route(policy(0.0, candidate=None), key) == "v1"


@given(model=st.text(max_size=10), key=KEYS)
def test_every_key_falls_into_a_bucket(model, key):
    assert 0 <= bucket(model, key) < BUCKETS


MANY = [f"user-{number}" for number in range(4_000)]


@given(weight=WEIGHTS)
def test_the_share_of_many_keys_is_within_five_standard_errors(weight):
    share = weight / 100

    hits = sum(route(policy(weight), key) == "v2" for key in MANY)

    assert abs(hits / len(MANY) - share) <= 5 * (share * (1 - share) / len(MANY)) ** 0.5


def test_two_models_split_the_same_keys_independently():
    keys = [f"user-{number}" for number in range(4_000)]
    both = sum(bucket("a", key) < 5_000 and bucket("b", key) < 5_000 for key in keys)

    assert abs(both / len(keys) - 0.25) <= 4 * (0.25 * 0.75 / len(keys)) ** 0.5


def test_another_process_gives_the_same_answer():
    program = "from cluster.traffic import bucket; print([bucket('m', f'k{i}') for i in range(50)])"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == str([bucket("m", f"k{i}") for i in range(50)])


@given(weight=WEIGHTS)
def test_the_weights_add_up_to_all_of_the_traffic(weight):
    assert sum(policy(weight).weights().values()) == pytest.approx(100.0)
    assert list(policy(weight).weights()) == ["v1", "v2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": -0.01},
        {"weight": 100.01},
        {"candidate": "v1"},
        {"candidate": None, "weight": 5.0},
        {"candidate": None, "weight": 0.0, "judging": Judging(rollout=1)},
        {"extra": 1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValidationError):
        policy(**({"weight": 10.0} | changes))


FRESH = Judging(rollout=1, fresh=Fresh(since=datetime(2026, 3, 1), others=1))


def part(weight: float, key: str) -> str:
    """Whose replicas are meant."""
    known = policy(weight, judging=FRESH)
    if is_in_second_slice(known, key):
        return "fresh"
    return route(known, key)


@given(key=KEYS, weight=WEIGHTS)
def test_the_second_slice_is_stables_own(key, weight):
    known = policy(weight, judging=FRESH)
    if is_in_second_slice(known, key):
        assert route(known, key) == "v1"
        assert weight < 50
    assert route(known, key) == route(policy(weight), key)
    assert not is_in_second_slice(policy(weight, judging=Judging(rollout=1)), key)


@given(key=KEYS, low=WEIGHTS, high=WEIGHTS)
def test_raising_a_weight_moves_nobody_out_of_either_slice(key, low, high):
    low, high = sorted((low, high))
    before, after = part(low, key), part(high, key)
    if before == "v2":
        assert after == "v2"
    if before == "fresh" and high < 50:
        assert after == "fresh"


@given(weight=WEIGHTS.filter(lambda weight: weight < 50))
def test_both_slices_are_as_wide_and_each_key_is_in_one_part(weight):
    known, share = policy(weight, judging=FRESH), weight / 100
    for chosen in ("v2", "fresh"):
        hits = sum(part(weight, key) == chosen for key in MANY)
        assert abs(hits / len(MANY) - share) <= 5 * (share * (1 - share) / len(MANY)) ** 0.5
    assert known.has_second_slice


def test_from_half_on_there_is_no_second_slice():
    assert {part(50.0, key) for key in MANY} == {"v1", "v2"}
