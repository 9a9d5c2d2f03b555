from __future__ import annotations

from serve_apps.gateway.balancer import AVOID_S, OUT, Balancer
from serve_apps.gateway.directory import Replica

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
