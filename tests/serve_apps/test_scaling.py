from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.scaling import POLICY, Goals, Load, LoadPolicy, wanted

GOALS = Goals(requests=10, waiting=4, kv_cache=0.9, ttft_s=2.0)
IDLE = Load(0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("loads", "replicas"),
    [
        ([IDLE], 0),
        ([IDLE, IDLE], 0),
        ([IDLE, Load(0, 0.1, 0, 0, 0)], 1),
        ([Load(8, 0, 0, 0.1, 0.1)], 1),
        ([Load(11, 0, 0, 0.1, 0.1)], 2),
        ([Load(30, 0, 0, 0.1, 0.1), Load(5, 0, 0, 0.1, 0.1)], 4),
        ([Load(5, 0, 5, 0.1, 0.1)], 2),
        ([Load(2, 0, 0, 0.95, 0.1)], 2),
        ([Load(2, 0, 0, 0.1, 3.0)], 2),
        ([Load(2, 0, 0, 0.95, 0.1), Load(2, 0, 0, 0.1, 0.1)], 3),
    ],
)
def test_replicas_for_a_load(loads, replicas):
    assert wanted(loads, len(loads), len(loads), GOALS) == replicas


def test_without_a_goal_for_the_first_token_it_counts_for_nothing():
    goals = Goals(requests=10, waiting=4, kv_cache=0.9, ttft_s=None)
    assert wanted([Load(2, 0, 0, 0.1, 60.0)], 1, 1, goals) == 1


loads = st.builds(
    Load,
    st.floats(0, 100),
    st.floats(0, 9),
    st.floats(0, 20),
    st.floats(0, 1),
    st.floats(0, 5, allow_nan=False),
)


@given(st.lists(loads, max_size=5), st.integers(1, 8), st.integers(0, 8))
def test_silent_replicas_never_make_fewer(told, silent, target):
    assert wanted(told, len(told) + silent, target, GOALS) >= target


@given(st.lists(loads, min_size=1, max_size=5), st.integers(0, 8))
def test_what_a_rollout_keeps_is_never_made_fewer(told, target):
    kept = [replace(told[0], kept=1.0), *told[1:]]
    assert wanted(kept, len(kept), target, GOALS) == max(target, wanted(told, len(told), target, GOALS))


@given(st.lists(loads, min_size=1, max_size=5), st.integers(0, 8), st.floats(0, 9))
def test_what_a_rollout_needs_is_wanted_whatever_the_load(told, target, needed):
    asking = [replace(told[0], needed=needed), *told[1:]]
    by_load = wanted(told, len(told), target, GOALS)
    assert wanted(asking, len(asking), target, GOALS) == max(by_load, math.ceil(needed))


def test_one_more_than_runs_is_wanted_for_a_rollout_once_and_no_more():
    idle = replace(IDLE, kept=1.0, needed=3.0)
    assert wanted([idle, idle], 2, 2, GOALS) == 3
    assert wanted([idle, idle, idle], 3, 3, GOALS) == 3


def test_one_that_is_reserved_for_a_rollout_is_wanted_beside_those_that_the_load_needs():
    busy, fresh = replace(IDLE, ongoing=18, needed=2.0), replace(IDLE, ongoing=2, needed=2.0, reserved=1.0)
    assert wanted([busy, fresh], 2, 2, GOALS) == 3
    assert wanted([replace(busy, ongoing=9), fresh], 2, 2, GOALS) == 2
    assert wanted([replace(busy, ongoing=9), replace(fresh, ongoing=9)], 2, 2, GOALS) == 2


@given(st.lists(loads, min_size=1, max_size=5), loads)
def test_more_load_never_makes_fewer(told, more):
    before = wanted(told, len(told) + 1, 0, GOALS)
    assert wanted([*told, more], len(told) + 1, 0, GOALS) >= before


@given(st.lists(loads, max_size=5))
def test_the_first_replica_is_held_to(told):
    asleep = wanted(told, len(told), 0, GOALS)
    assert wanted(told, len(told), 0, GOALS, held=True) == max(1, asleep)


def context(metrics, replicas=("a", "b"), target=2, woken=0.0, scaled_up_ago_s=None):
    return SimpleNamespace(
        current_time=5000.0,
        last_scale_up_time=None if scaled_up_ago_s is None else 5000.0 - scaled_up_ago_s,
        total_queued_requests=woken,
        aggregated_metrics=metrics,
        running_replicas=list(replicas),
        target_num_replicas=target,
        config=SimpleNamespace(get_target_ongoing_requests=lambda: 10),
    )


def test_serves_own_form_of_a_policy():
    metrics = {
        "ongoing": {"a": 18.0, "b": 12.0},
        "asked": {"a": 3.0, "b": 2.0},
        "waiting": {"a": 0.0, "b": 0.0},
        "kv_cache": {"a": 0.1, "b": 0.1},
        "ttft_s": {"a": 0.1, "b": 0.1},
        "kept": {"a": 0.0, "b": 0.0},
        "needed": {"a": 0.0, "b": 0.0},
    }
    assert LoadPolicy()(context(metrics)) == (3, {})
    assert LoadPolicy(max_kv_cache_usage=0.05)(context(metrics)) == (3, {})
    # A mean over some seconds, in which the rollout began.
    assert LoadPolicy()(context(metrics | {"needed": {"a": 3.4, "b": 4.0}})) == (4, {})
    assert LoadPolicy()(context(None)) == (2, {})
    assert LoadPolicy()(context({}, replicas=(), target=0)) == (0, {})
    assert LoadPolicy()(context({}, replicas=(), target=0, woken=1.0)) == (1, {})


def test_a_replica_that_does_not_know_what_rollouts_want_is_no_silent_one():
    load = {name: {"a": 0.0, "b": 0.0} for name in ("ongoing", "asked", "waiting", "kv_cache", "ttft_s")}
    assert LoadPolicy()(context(load)) == (0, {})
    assert LoadPolicy()(context(load | {"needed": {"b": 3.0}})) == (3, {})
    assert LoadPolicy()(context({name: of for name, of in load.items() if name != "asked"})) == (2, {})


@pytest.mark.parametrize(("scaled_up_ago_s", "replicas"), [(None, 1), (60.0, 1), (1000.0, 0)])
def test_a_first_replica_that_starts_is_not_taken_back_until_it_has_had_its_time(scaled_up_ago_s, replicas):
    starting = context({}, replicas=(), target=1, scaled_up_ago_s=scaled_up_ago_s)
    assert LoadPolicy()(starting) == (replicas, {})


def test_serve_finds_the_policy_and_gives_it_its_settings():
    from ray.serve._private.autoscaling_state import _resolve_policy_callable
    from ray.serve.config import AutoscalingConfig

    config = AutoscalingConfig(
        min_replicas=1,
        max_replicas=3,
        policy={"policy_function": POLICY, "policy_kwargs": {"max_waiting_requests": 1}},
    )
    config.policy.serialize_policy()
    policy = _resolve_policy_callable(config.policy)
    assert type(policy).__name__ == "LoadPolicy"
    assert policy._waiting == 1
