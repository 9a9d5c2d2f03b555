from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from cluster.tally import Pairs, Sketch, Tally, VersionTally
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.tally import (
    Finished,
    LookedAt,
    NotLookedAt,
    Pair,
    Shadowed,
    TallyBuilder,
)

SECONDS = st.floats(0.000001, 600)
TOKENS = st.integers(0, 20_000)
VERSIONS = st.sampled_from(["v1", "v2"])
NAMES = st.sampled_from(["v1", "v2", "fresh:v1"])
CHECKS = ("refusal", "repetition", "invalid_json", "wrong_script", "banned_word")
FOUND = st.dictionaries(st.sampled_from(CHECKS), st.booleans())


def observation(version="v1", status=200, **more):
    defaults = {
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "request_id": "id",
        "model": "m",
        "route": "/v1/chat/completions",
        "key_hash": "",
        "stream": more.get("ttft_s") is not None,
        "error_code": "",
        "ttft_s": None,
        "itl_s": None,
        "e2e_s": 1.0,
        "prompt_tokens": None,
        "completion_tokens": None,
        "finish_reason": "stop",
        "retries": 0,
        "continued": 0,
    }
    return Observation(version=version, status=status, **defaults | more)


rows = st.builds(
    observation,
    version=VERSIONS,
    status=st.sampled_from([200, 400, 429, 499, 500, 502, 503, 504]),
    error_code=st.sampled_from(["", "", "stream_broken", "upstream_timeout", "no_replica", "internal_error"]),
    route=st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]),
    ttft_s=st.none() | SECONDS,
    itl_s=st.none() | SECONDS,
    e2e_s=SECONDS | st.just(0.0),
    completion_tokens=st.none() | TOKENS,
    finish_reason=st.sampled_from(["", "stop", "length"]),
    retries=st.integers(0, 2),
)
seen = st.one_of(
    st.builds(
        Finished,
        rows,
        NAMES,
        TOKENS,
        st.booleans(),
        st.none() | st.floats(-9999.0, 0.0),
        new_replica=st.booleans(),
    ),
    st.builds(LookedAt, NAMES, FOUND),
    st.builds(NotLookedAt, NAMES),
    st.builds(Shadowed, st.booleans()),
    st.builds(Pair, FOUND, FOUND),
)


def tally(events) -> Tally:
    builder = TallyBuilder()
    for event in events:
        builder.add(event)
    return Tally.model_validate(builder.to_json())


def plus(one, other):
    """The sum of two tallies, written without a thought to how they are made."""
    if isinstance(one, int):
        return one + other
    if isinstance(one, Sketch):
        buckets = Counter(dict(one.buckets)) + Counter(dict(other.buckets))
        return Sketch(zeros=one.zeros + other.zeros, buckets=tuple(sorted(buckets.items())))
    if isinstance(one, dict):
        return {
            name: plus(one[name], other[name]) if name in one and name in other else {**one, **other}[name]
            for name in {**one, **other}
        }
    return type(one)(
        **{name: plus(getattr(one, name), getattr(other, name)) for name in type(one).model_fields}
    )


@given(st.lists(seen, max_size=30), st.lists(seen, max_size=30))
def test_the_tally_of_two_sequences_is_the_sum_of_theirs_in_any_order(first, second):
    assert tally(first + second) == tally(second + first) == plus(tally(first), tally(second))


@given(st.lists(seen, max_size=60))
def test_counts_and_sketches_hold_together(events):
    for version in tally(events).versions.values():
        counts = Counter(version.counts)
        assert counts["errors"] == sum(
            counts[kind] for kind in ("timeout", "broken_stream", "unavailable", "internal")
        )
        good = counts["requests"] - counts["errors"]
        assert counts["asked"] == counts["requests"] + counts["left"] + counts["overloaded"]
        assert counts["empty"] <= good
        assert counts["cut"] <= good
        assert counts["retried"] <= counts["requests"]
        assert counts["json_texts"] <= counts["texts"]
        assert counts["invalid_json"] <= counts["json_texts"]
        assert all(counts[check] <= counts["texts"] for check in CHECKS)
        sizes = {metric: sum(map(size, strata.values())) for metric, strata in version.sketches.items()}
        assert sizes.get("e2el", 0) == good
        assert all(number <= good for number in sizes.values())


def size(sketch: Sketch) -> int:
    return sketch.zeros + sum(number for _, number in sketch.buckets)


@given(st.lists(seen, max_size=60))
def test_strata_are_few(events):
    found = tally(events)
    for version in found.versions.values():
        for metric, strata in version.sketches.items():
            sizes = 5 if metric in ("ttft", "answer_tokens") else 20
            assert len({name.removesuffix("n") for name in strata}) <= sizes
            assert len(strata) <= 2 * sizes


def test_what_a_version_says_is_compared_whether_its_replica_is_new_or_not():
    row = observation(ttft_s=0.1, itl_s=0.01, completion_tokens=7)
    [strata] = [
        {metric: list(found) for metric, found in version.sketches.items()}
        for version in tally([Finished(row, "v1", 5, True, -0.5, new_replica=True)]).versions.values()
    ]
    assert strata == {
        "e2el": ["p0a0n"],
        "ttft": ["p0n"],
        "itl": ["p0a0n"],
        "answer_tokens": ["p0"],
        "tokens_per_s": ["p0a0n"],
        "mean_logprob": ["p0a0"],
    }


@given(st.lists(seen, max_size=30))
def test_it_comes_back_from_json_as_it_was(events):
    found = tally(events)
    assert Tally.model_validate(json.loads(found.model_dump_json())) == found
    builder = TallyBuilder()
    for event in events:
        builder.add(event)
    assert Tally.model_validate(json.loads(json.dumps(builder.to_json()))) == found


def test_nothing_is_nothing():
    assert tally([]) == Tally()


def test_quantities_are_of_good_answers_alone():
    bad = observation(error_code="stream_broken", ttft_s=0.1)
    assert tally([Finished(bad, "v1", 5, True)]).versions["v1"] == VersionTally(
        counts={"requests": 1, "asked": 1, "errors": 1, "broken_stream": 1}
    )


def test_embeddings_are_never_empty_or_cut():
    row = observation(route="/v1/embeddings", finish_reason="")
    assert tally([Finished(row, "v1", 5, False)]).versions["v1"].counts == {"requests": 1, "asked": 1}


def test_who_waits_in_vain_is_counted_as_asked_and_who_stops_reading_is_not():
    left, stopped = observation(status=499), observation(status=499, ttft_s=0.2)
    turned_away = observation(status=429, error_code="overloaded")
    rows = [left, stopped, turned_away, observation(status=400)]
    counts = tally([Finished(row, "v1", 5, False) for row in rows]).versions["v1"].counts
    assert counts == {"asked": 2, "left": 1, "overloaded": 1}


def test_a_stream_that_went_on_elsewhere_was_sent_again():
    assert tally([Finished(observation(continued=1), "v1", 5, True)]).versions["v1"].counts["retried"] == 1


def test_pairs_tell_of_checks_that_both_answers_had():
    found = tally(
        [
            Pair({"refusal": True, "invalid_json": True}, {"refusal": True}),
            Pair({"refusal": True}, {"refusal": False}),
            Pair({"refusal": False}, {"refusal": True}),
            Pair({"refusal": False}, {"refusal": False}),
        ]
    )
    assert found.pairs == {"refusal": Pairs(n=4, both=1, only_candidate=1, only_stable=1)}


def test_a_mean_log_probability_is_told_as_its_distance_from_certainty():
    found = tally([Finished(observation(), "v1", 5, True, 0.0), Finished(observation(), "v1", 5, True, -0.5)])
    sketch = found.versions["v1"].sketches["mean_logprob"]["p0a0"]
    assert (sketch.zeros, len(sketch.buckets)) == (1, 1)
