"""Which replicas of stable are fresh, who is sent to them, and under which name that is counted."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.judging import Fresh, Judging
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import ReplicaRow, utc_now
from cluster.traffic import TrafficPolicy, is_in_second_slice, route
from serve_apps.gateway.fresh_replicas import FreshCache, counted_as, kept_apart, none_fresh, spares
from serve_apps.gateway.selection import Choice
from tests.serve_apps.gateway.servers import TableDirectory, eventually

NAMES = st.frozensets(st.sampled_from("abcdef"))


def judging(others=1):
    return Judging(rollout=1, fresh=Fresh(since=utc_now() - timedelta(minutes=10), others=others))


def policy(weight=10.0, asked=None):
    return TrafficPolicy(
        model="m", revision=1, stable="v1", candidate="v2", weight=weight, judging=asked or judging()
    )


class Known:
    """The policies of a gateway."""

    def __init__(self, now):
        self.now = now

    def get(self, _model):
        return self.now


def serve(database, replica, *, ago_min, version="v1"):
    with database.transaction() as session:
        status = ReplicaStatus.SERVING
        replicas.report(session, replica=replica, model="m", version=version, status=status)
        started = utc_now() - timedelta(minutes=ago_min)
        session.get(ReplicaRow, (replica, version)).started_at = started


@pytest.fixture
def directory():
    table = TableDirectory()
    table.put("m", "v1", "old", "new")
    table.put("m", "v2", "candidate")
    return table


@pytest.fixture
def served(database):
    serve(database, "old", ago_min=60)
    serve(database, "new", ago_min=5)
    return database


def cache(database, directory, now):
    found = FreshCache(database, directory, Known(now), ["m"])
    found._once()
    return found


def test_fresh_are_those_that_started_since_the_rollout_began(served, directory):
    found = cache(served, directory, policy())
    assert found.of("m", "v1") == {"new"}
    assert found.of("m", "v2") == found.of("other", "v3") == set()


def test_none_are_where_none_were_asked_for_or_from_half_of_the_traffic_on(served, directory):
    assert cache(served, directory, policy(asked=Judging(rollout=1))).of("m", "v1") == set()
    assert cache(served, directory, policy(weight=50)).of("m", "v1") == set()
    assert cache(served, directory, policy(weight=49.99)).of("m", "v1") == {"new"}
    assert cache(served, directory, None).of("m", "v1") == set()


def test_an_adapter_has_none_since_it_shares_its_replicas(served, directory):
    directory.hosts["m", "v1"] = "v0"
    assert cache(served, directory, policy()).of("m", "v1") == set()


def test_without_such_a_policy_the_database_is_not_asked(directory):
    cache(None, directory, policy(asked=Judging(rollout=1)))


def test_without_a_cache_none_are():
    assert none_fresh("m", "v1") == set()


@given(NAMES, NAMES, NAMES)
def test_each_replica_is_kept_for_one_slice_or_the_other(running, standbys, fresh):
    fresh &= running
    beside, others = (
        spares(Choice("m", "v1", second_slice=second), running, standbys, fresh) for second in (True, False)
    )
    if fresh:
        assert (running - standbys) - beside == fresh - standbys
        assert (running - standbys) - others == running - standbys - fresh
    else:
        assert beside == others == standbys


@example(frozenset("ab"), frozenset("a"), frozenset("a"), frozenset(), True)
@given(NAMES, NAMES, NAMES, NAMES, st.booleans())
def test_whoever_has_room_for_a_request_gets_it_rather_than_one_that_has_none(
    running, standbys, fresh, full, second
):
    fresh &= running
    choice = Choice("m", "v1", second_slice=second)
    kept = kept_apart(choice, running, standbys, fresh, full.__contains__)
    first = running - spares(choice, running, standbys, kept)
    own = (fresh if second else running - fresh) - standbys
    if own - full:
        assert first == own - full if second else first == own
    elif fresh:
        assert first >= running - standbys - full


def test_the_rest_of_stable_is_counted_under_its_own_name():
    ten, half = policy(10), policy(50)
    compared, rest = Choice("m", "v1", ten, second_slice=True), Choice("m", "v1", ten)
    assert counted_as(compared, ten, frozenset({"new"})) == "fresh:v1"
    assert counted_as(compared, ten, frozenset()) == "v1"
    assert counted_as(rest, ten, frozenset({"new"})) == "v1"
    assert counted_as(Choice("m", "v1", half), half, frozenset()) == "fresh:v1"
    assert counted_as(Choice("m", "v2", ten), ten, frozenset({"new"})) == "v2"
    plain = policy(10, Judging(rollout=1))
    assert counted_as(Choice("m", "v1", plain), plain, frozenset()) == "v1"


def keys_of(known):
    """Twenty keys of the candidate, of the second slice, and of neither."""
    found = {"candidate": [], "beside": [], "rest": []}
    number = 0
    while any(len(keys) < 20 for keys in found.values()):
        key, number = f"key-{number}", number + 1
        part = "candidate" if route(known, key) == "v2" else "rest"
        part = "beside" if is_in_second_slice(known, key) else part
        found[part].append(key)
    return {part: keys[:20] for part, keys in found.items()}


def ask(stack, keys):
    for key in keys:
        headers = {"x-linnet-key": key}
        assert httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m"}, headers=headers).is_success


@pytest.fixture
def beside(launch, database):
    """A gateway before an old and a new replica of v1, and one of v2."""
    stack = launch()
    old, new, candidate = stack.engine("v1"), stack.engine("v1"), stack.engine("v2")
    serve(database, old.base_url, ago_min=60)
    serve(database, new.base_url, ago_min=5)
    serve(database, candidate.base_url, ago_min=5, version="v2")
    stack.policy("v1", "v2", 25, judging())
    eventually(lambda: stack.fresh.of("m", "v1") == {new.base_url}, "the gateway knows the fresh replica")
    return stack, old, new


def test_the_second_slice_alone_goes_to_fresh_replicas_and_is_counted_apart(beside):
    stack, old, new = beside
    keys = keys_of(stack.cache.get("m"))
    ask(stack, keys["rest"])
    assert (len(old.requests), len(new.requests)) == (20, 0)
    ask(stack, keys["beside"])
    ask(stack, keys["candidate"])
    assert (len(old.requests), len(new.requests)) == (20, 20)
    counted = {name: found.counts["requests"] for name, found in stack.tally().versions.items()}
    assert counted == {"v1": 20, "fresh:v1": 20, "v2": 20}


def test_where_no_fresh_one_answers_the_others_do_and_none_is_lost(beside):
    stack, old, new = beside
    keys = keys_of(stack.cache.get("m"))
    new.stop()
    ask(stack, keys["beside"])
    assert len(old.requests) == 20
    # What was meant for the fresh one is counted as its own: else its failures would count for nothing.
    assert stack.tally().versions["fresh:v1"].counts["requests"] == 20


@pytest.mark.parametrize(("busy", "slice_"), [("new", "beside"), ("old", "rest")])
def test_a_replica_with_all_it_can_do_gets_no_more_while_the_other_has_room(launch, database, busy, slice_):
    stack = launch(max_in_flight_per_replica=1)
    held, release = stack.held_engine("v1")
    idle = stack.engine("v1")
    stack.engine("v2")
    serve(database, held.base_url, ago_min=5 if busy == "new" else 60)
    serve(database, idle.base_url, ago_min=60 if busy == "new" else 5)
    stack.policy("v1", "v2", 25, judging())
    fresh = held if busy == "new" else idle
    eventually(lambda: stack.fresh.of("m", "v1") == {fresh.base_url}, "the gateway knows the fresh replica")
    first, second = keys_of(stack.cache.get("m"))[slice_][:2]
    waiting = stack.loop.submit(stack.post(user=first, secret=first))
    eventually(lambda: len(held.requests) == 1, "the busy replica has a request")
    ask(stack, [second])
    assert len(idle.requests) == 1
    stack.loop.loop.call_soon_threadsafe(release.set)
    assert waiting.result(20) == 200
