from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.judging import Judging, Match
from cluster.traffic import TrafficPolicy, route
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.selection import Ask, Choice, is_matched, parse_ask, select, split_key

HALF = TrafficPolicy(model="m", revision=1, stable="v1", candidate="v2", weight=50)


def choose(ask, headers=(), *, served=("m",), versions=("v1", "v2", "v3"), policy=HALF, heard=True):
    return select(
        ask, headers, served=served, versions=lambda _: versions, policy=lambda _: policy, heard=heard
    )


@pytest.mark.parametrize(("ask", "headers"), [(Ask("m:v9"), []), (Ask("m"), [(b"x-linnet-version", b"v9")])])
def test_before_the_cluster_was_heard_no_version_is_called_unknown(ask, headers):
    refusal = choose(ask, headers, heard=False)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "not_ready", 1.0)
    assert choose(ask, headers).status == 404
    assert choose(Ask("m:v3"), heard=False) == Choice("m", "v3")


def test_the_split_decides_without_a_pin():
    for number in range(50):
        headers = [(b"x-linnet-key", f"k{number}".encode())]
        assert choose(Ask("m"), headers) == Choice("m", route(HALF, f"k{number}"))


@pytest.mark.parametrize(
    ("ask", "headers"),
    [
        (Ask("m"), [(b"x-linnet-version", b"v3")]),
        (Ask("m:v3"), []),
        (Ask("m:v3"), [(b"x-linnet-version", b" v3 ")]),
        (Ask(None), [(b"x-linnet-version", b"v3")]),
    ],
)
def test_a_pin_overrides_the_split(ask, headers):
    assert choose(ask, headers) == Choice("m", "v3")


def test_a_pin_needs_no_policy_and_reaches_a_version_that_only_the_policy_knows():
    assert choose(Ask("m:v3"), policy=None) == Choice("m", "v3")
    assert choose(Ask("m:v2"), versions=()) == Choice("m", "v2")


@pytest.mark.parametrize(
    ("ask", "headers", "status", "code", "words"),
    [
        (Ask("mm"), [], 404, "model_not_found", ["`mm`", "Did you mean `m`?", "Served: m"]),
        (Ask("m:v9"), [], 404, "model_not_found", ["`m:v9`", "m:v1, m:v2"]),
        (Ask("m"), [(b"x-linnet-version", b"v9")], 404, "version_not_found", ["`v9`", "v1, v2, v3"]),
        (Ask("m:v1"), [(b"x-linnet-version", b"v2")], 400, "version_conflict", ["`m:v1`", "`v2`"]),
        (Ask(""), [], 404, "model_not_found", ["Served: m"]),
    ],
)
def test_what_is_not_served_is_refused(ask, headers, status, code, words):
    refusal = choose(ask, headers)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (status, code)
    assert all(word in refusal.message for word in words)


def test_without_a_policy_there_is_no_stable_version():
    refusal = choose(Ask("m"), policy=None)
    assert (refusal.status, refusal.retry_after_s) == (503, 1.0)


def test_a_model_may_be_left_out_only_where_one_is_served():
    assert isinstance(choose(Ask(None)), Choice)
    assert choose(Ask(None), served=("m", "n")).code == "missing_required_parameter"


def test_the_key_is_the_header_then_the_user_then_the_api_key_then_random():
    header, auth = (b"x-linnet-key", b"kim"), (b"authorization", b"bearer sk-1")
    assert split_key([auth, header], "ada") == "kim"
    assert split_key([auth, (b"x-linnet-key", b"")], "ada") == "ada"
    assert split_key([auth], None) == "sk-1"
    assert split_key([(b"authorization", b"Basic eA==")], "") != split_key([], "")


@given(st.text(min_size=1).filter(lambda text: text.strip() == text))
def test_a_key_counts_alike_from_the_header_and_from_the_body(key):
    from_header = split_key([(b"x-linnet-key", key.encode("utf-8", "replace"))], None)
    if key.isprintable():
        assert from_header == key
    route(HALF, from_header)


@given(st.binary(max_size=60))
def test_no_header_bytes_break_the_split(value):
    route(HALF, split_key([(b"x-linnet-key", value), (b"authorization", value)], None))


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.text() | st.lists(st.integers())))
def test_other_fields_are_let_through(others):
    body = {**others, "model": "m", "user": "ada"}
    assert parse_ask(json.dumps(body).encode()) == Ask("m", "ada")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    assert isinstance(parse_ask(body), Ask | Refusal)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model": "\xff"}', "invalid_json", None),
        (b'{"x": ' + b"[" * 100_000, "invalid_json", None),
        (b'{"user": "\\ud800"}', "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'{"model": 5}', "invalid_type", "model"),
        (b'{"user": {}}', "invalid_type", "user"),
    ],
)
def test_a_bad_body_is_refused_by_name(body, code, param):
    refusal = parse_ask(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.param) == (400, code, param)


MATCHED = (Match(header={"x-region": "eu", "x-tier": "gold"}), Match(key_prefix="beta-"))


def judged(weight, match=MATCHED, revision=1):
    judging = Judging(rollout=1, match=match)
    return TrafficPolicy(
        model="m", revision=revision, stable="v1", candidate="v2", weight=weight, judging=judging
    )


@pytest.mark.parametrize(
    ("headers", "user", "matched"),
    [
        ([(b"x-region", b"eu"), (b"x-tier", b" gold ")], None, True),
        ([(b"x-region", b"us"), (b"x-region", b"eu"), (b"x-tier", b"gold")], None, True),
        ([(b"x-region", b"eu")], None, False),
        ([(b"x-region", b"EU"), (b"x-tier", b"gold")], None, False),
        ([(b"x-linnet-key", b"beta-1")], None, True),
        ([(b"x-linnet-key", b"ada")], "beta-1", False),
        ([], "beta-1", True),
        ([(b"authorization", b"Bearer beta-1")], None, True),
        ([(b"x-linnet-key", b"a-beta-")], None, False),
        ([], None, False),
    ],
)
def test_whoever_fits_one_match_is_matched(headers, user, matched):
    choice = choose(Ask("m", user), headers, policy=judged(100))
    assert (choice.version, choice.judged_by) == (("v2", judged(100)) if matched else ("v1", None))


def test_without_a_match_everyone_is_matched():
    choice = choose(Ask("m"), policy=judged(100, ()))
    assert (choice.version, choice.judged_by) == ("v2", judged(100, ()))


def test_a_key_that_nobody_gave_has_no_prefix():
    everyone = tuple(Match(key_prefix=digit) for digit in "0123456789abcdef")
    assert choose(Ask("m"), policy=judged(100, everyone)).judged_by is None


def test_the_caller_is_told_by_the_key_that_the_split_goes_by_where_the_answer_counts():
    header = [(b"x-linnet-key", b"beta-1"), (b"authorization", b"Bearer sk")]
    same = choose(Ask("m", "beta-1"), policy=judged(50)).caller
    assert choose(Ask("m", "ada"), header, policy=judged(50)).caller == same != b""
    assert choose(Ask("m", "beta-2"), policy=judged(50)).caller not in (same, b"")
    assert choose(Ask("m"), policy=judged(50, ())).caller == b""
    assert choose(Ask("m"), header, policy=HALF).caller == b""


def test_however_long_a_key_is_no_more_is_kept_of_its_caller():
    long = choose(Ask("m", "beta-" + "x" * 1_000_000), policy=judged(50))
    assert (long.judged_by, len(long.caller)) == (judged(50), 16)


def test_a_pin_and_a_policy_that_is_not_judged_count_for_no_rollout():
    pinned = choose(Ask("m:v2"), [(b"x-linnet-key", b"beta-1")], policy=judged(100))
    assert (pinned, pinned.judged_by) == (Choice("m", "v2"), None)
    assert choose(Ask("m"), policy=HALF).judged_by is None


KEYS = st.sampled_from(["", "beta-"]).flatmap(
    lambda prefix: st.text(max_size=8).map(lambda rest: prefix + rest)
)
HEADERS = st.lists(
    st.tuples(st.sampled_from([b"x-region", b"x-tier"]), st.sampled_from([b"eu", b"us", b"gold"])), max_size=4
)
WEIGHTS = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


@given(KEYS.filter(str.strip), HEADERS, WEIGHTS, WEIGHTS)
def test_with_a_match_the_split_is_sticky_and_raising_a_weight_moves_nobody_back(key, headers, low, high):
    low, high = sorted((low, high))
    policies = [judged(low), judged(low, revision=9), judged(high)]
    before, again, after = (choose(Ask("m", key), headers, policy=policy) for policy in policies)
    assert before == again
    if before.version == "v2":
        assert after.version == "v2"
    matched = is_matched(policies[0].judging, headers, key.strip())
    assert after.version == (route(policies[2], key) if matched else "v1")
    assert {choice.judged_by is not None for choice in (before, again, after)} == {matched}


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_no_header_bytes_break_the_match(name, value):
    headers = [(name, value), (b"x-region", value), (b"x-linnet-key", value)]
    assert isinstance(choose(Ask("m"), headers, policy=judged(50)), Choice)
