from __future__ import annotations

from serve_apps.gateway.balancer import AVOID_S, LONGEST_OPEN_S, OPEN_S, OUT, REMEMBERED, TRIPS, Balancer
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.strata import NEW_REQUESTS

A, B, C = (Replica(id=name, base_url=f"http://{name}") for name in "abc")


def test_the_least_busy_replica_is_picked():
    balancer = Balancer()
    for name in ("a", "a", "b", "c", "c"):
        balancer.enter(name)
    assert balancer.pick([A, B, C], {}) is B
    balancer.leave("a")
    balancer.leave("a")
    assert balancer.pick([A, B, C], {}) is A


def test_ties_are_shared():
    balancer = Balancer()
    assert {balancer.pick([A, B, C], {}).id for _ in range(200)} == {"a", "b", "c"}


def test_a_refusing_replica_is_avoided_for_a_second():
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0])
    balancer.avoid("a")
    assert {balancer.pick([A, B], {}).id for _ in range(50)} == {"b"}
    assert balancer.pick([A], {}) is None
    now[0] += AVOID_S
    assert balancer.pick([A], {}) is A


def test_strikes_rank_before_load_and_put_out_in_the_end():
    balancer = Balancer()
    balancer.enter("b")
    assert balancer.pick([A, B], {"a": 1}) is B
    assert balancer.pick([A], {"a": 1}) is A
    assert balancer.pick([A], {"a": OUT}) is None
    assert balancer.pick([], {}) is None


def test_a_standby_is_picked_only_where_no_other_is_fit():
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0])
    for _ in range(5):
        balancer.enter("a")
    assert balancer.pick([A, B], {}, spares={"b"}) is A
    assert balancer.pick([A, B], {"a": 1}, spares={"b"}) is B
    assert balancer.pick([B], {}, spares={"b"}) is B
    balancer.avoid("a")
    assert balancer.pick([A, B], {}, spares={"b"}) is B
    now[0] += AVOID_S
    assert balancer.pick([A, B], {}, spares={"b"}) is A
    for _ in range(TRIPS):
        balancer.failed("a")
    assert balancer.pick([A, B], {}, spares={"b"}) is B


def picked(balancer, replicas):
    return {balancer.pick(replicas, {}).id for _ in range(50)}


def test_a_replica_that_fails_again_and_again_is_asked_last_until_its_time_is_over():
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0])
    for _ in range(TRIPS):
        assert picked(balancer, [A, B]) == {"a", "b"}
        balancer.failed("a")
    balancer.enter("b")
    assert picked(balancer, [A, B]) == {"b"}
    assert balancer.pick([A], {}) is A
    now[0] += OPEN_S + 0.1
    assert picked(balancer, [A, B]) == {"a"}
    balancer.failed("a")
    now[0] += OPEN_S + 0.1
    assert picked(balancer, [A, B]) == {"b"}
    now[0] += OPEN_S
    balancer.answered("a")
    balancer.failed("a")
    assert picked(balancer, [A, B]) == {"a"}


def test_a_circuit_stays_open_for_a_minute_at_most_and_is_forgotten():
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0])
    for _ in range(2000):
        balancer.failed("a")
    balancer.enter("b")
    now[0] += LONGEST_OPEN_S + 0.1
    assert picked(balancer, [A, B]) == {"a"}
    now[0] += LONGEST_OPEN_S
    balancer.failed("c")
    assert list(balancer._failures) == ["c"]


def test_a_replica_that_failed_once_and_is_gone_is_forgotten():
    now = [100.0]
    balancer = Balancer(clock=lambda: now[0])
    for name in ("a", "b", "c"):
        balancer.failed(name)
        now[0] += LONGEST_OPEN_S
    assert list(balancer._failures) == ["a", "b", "c"]
    balancer.failed("d")
    assert list(balancer._failures) == ["b", "c", "d"]


def test_a_replica_is_new_for_its_first_requests():
    balancer = Balancer()
    seen = []
    for _ in range(NEW_REQUESTS + 2):
        balancer.enter("a")
        seen.append(balancer.is_new("a"))
        balancer.leave("a")
    assert seen == [True] * NEW_REQUESTS + [False] * 2
    assert balancer.is_new("b")


def test_replicas_that_are_long_gone_are_forgotten():
    balancer = Balancer()
    for _ in range(NEW_REQUESTS + 1):
        balancer.enter("first")
    for number in range(REMEMBERED):
        balancer.enter(f"r{number}")
    assert balancer.is_new("first")
    assert len(balancer._entered) == REMEMBERED
