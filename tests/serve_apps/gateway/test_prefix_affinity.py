from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import validate
from cluster.errors import ConfigError
from serve_apps.gateway.balancer import OUT, TRIPS, Balancer
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.prefix_affinity import PrefixAffinity, VersionPrefixes
from serve_apps.gateway.ray_prefix_tree import NODE_CHARS
from serve_apps.gateway.routing import RoutingConfig, RoutingPolicy
from serve_apps.gateway.selection import Choice
from tests.serve_apps.gateway.servers import Clock, TableDirectory

IDS = ["a", "b", "c"]
REPLICAS = tuple(Replica(id=name, base_url=f"http://{name}") for name in IDS)
EVEN = dict.fromkeys(IDS, 0)
SMALL = {"eviction_threshold_chars": 2000, "eviction_target_chars": 1500}


def aware(**given) -> RoutingConfig:
    return RoutingConfig(policy=RoutingPolicy.PREFIX_AWARE, **given)


def known(config: RoutingConfig | None = None, replicas=REPLICAS) -> VersionPrefixes:
    prefixes = VersionPrefixes(config or aware())
    prefixes.follow(replicas)
    return prefixes


def test_a_prompt_goes_where_its_longest_beginning_is_known():
    prefixes = known()
    prefixes.sent("system. ask one", "a")
    prefixes.sent("system. ask two", "b")
    assert set(prefixes.narrow("system. ask two, and more", EVEN)) == {"b"}
    assert set(prefixes.narrow("system. ask him", EVEN)) == {"a", "b"}
    assert set(prefixes.narrow("system. ask one", {"b": 0, "c": 0})) == {"b"}


def test_one_that_nobody_knows_goes_where_least_is_remembered():
    prefixes = known()
    prefixes.sent("aaaa" * 20, "a")
    prefixes.sent("bb", "b")
    assert set(prefixes.narrow("zzzz", EVEN)) == {"c"}
    assert set(prefixes.narrow("b" + "z" * 20, EVEN)) == {"c"}
    assert set(prefixes.narrow("zzzz", {"a": 0, "b": 0})) == {"b"}


def test_the_match_rate_is_the_least_share_that_counts():
    prefixes = known(aware(match_rate_threshold=0.5))
    prefixes.sent("abcd" * 30, "a")
    assert set(prefixes.narrow("abcd" + "z" * 4, EVEN)) == {"a"}
    assert set(prefixes.narrow("abcd" + "z" * 5, EVEN)) == {"b", "c"}


def test_beyond_the_threshold_load_alone_counts():
    prefixes = known(aware(imbalanced_threshold=2))
    prefixes.sent("hello", "a")
    assert set(prefixes.narrow("hello", {"a": 2, "b": 0, "c": 1})) == {"a"}
    assert set(prefixes.narrow("hello", {"a": 3, "b": 0, "c": 1})) == set(IDS)


def test_a_replica_that_goes_is_forgotten_and_one_that_comes_is_asked():
    prefixes = known()
    prefixes.sent("hello", "a")
    prefixes.follow(REPLICAS[1:])
    prefixes.sent("other", "b")
    assert set(prefixes.narrow("hello", {"b": 0, "c": 0})) == {"c"}
    prefixes.follow(REPLICAS)
    assert "a" in prefixes.narrow("hello", EVEN)
    assert prefixes._tree.size("a") == 0


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=900), st.sampled_from(IDS)), max_size=60))
def test_what_is_remembered_is_bounded_and_the_latest_is_among_it(prompts):
    prefixes = known(aware(**SMALL))
    for text, name in prompts:
        prefixes.sent(text, name)
        assert prefixes._tree.size(name) <= SMALL["eviction_threshold_chars"]
        assert name in prefixes.narrow(text, EVEN)


def test_many_short_endings_are_bounded_too():
    prefixes = known(aware(**SMALL))
    for number in range(500):
        prefixes.sent("x" * 500 + chr(1000 + number), "a")
    assert prefixes._tree._nodes["a"] <= SMALL["eviction_threshold_chars"] / NODE_CHARS


def test_versions_with_one_replica_have_no_prefixes_and_those_that_went_are_forgotten():
    directory = TableDirectory()
    affinity = PrefixAffinity(aware(), directory)
    directory.put("m", "v1", "http://a", "http://b")
    directory.put("m", "v2", "http://c")
    one, two = Choice("m", "v1"), Choice("m", "v2")
    found = affinity.of(one)
    assert found is affinity.of(one)
    assert affinity.of(two) is None
    assert set(affinity._versions) == {one}
    directory.table.pop(("m", "v1"))
    directory.put("m", "v2", "http://c", "http://d")
    assert affinity.of(two) is not None
    assert set(affinity._versions) == {two}
    directory.put("m", "v2", "http://c")
    assert affinity.of(two) is None
    assert affinity._versions == {}


class WithAdapter(TableDirectory):
    """v1 has an adapter, lora."""

    def host(self, model, version):
        return "v1" if version == "lora" else version


def test_an_adapter_shares_its_bases_memory_and_none_of_its_prefixes():
    directory = WithAdapter()
    affinity = PrefixAffinity(aware(), directory)
    directory.put("m", "v1", "http://a", "http://b")
    base, adapter = Choice("m", "v1"), Choice("m", "lora")
    prefixes = affinity.of(base)
    assert affinity.of(adapter) is prefixes
    texts = [affinity.begin(choice, "once upon a time") for choice in (base, adapter)]
    assert texts[0] == "once upon a time" == texts[1][1:]
    names = [replica.id for replica in directory.replicas("m", "v1")]
    prefixes.sent(texts[0], names[0])
    assert prefixes.narrow(texts[0], dict.fromkeys(names, 0)) == [names[0]]
    assert prefixes.narrow(texts[1], dict.fromkeys(names, 0)) == [names[1]]


LOADS = st.fixed_dictionaries({name: st.integers(0, 9) for name in IDS})
STATES = st.fixed_dictionaries(
    {name: st.sampled_from(["well", "struck", "out", "avoided", "open"]) for name in IDS}
)
TEXTS = st.text("ab", min_size=1, max_size=30)


def in_state(balancer: Balancer, loads, states) -> dict[str, int]:
    for name in IDS:
        for _ in range(loads[name]):
            balancer.enter(name)
        if states[name] == "avoided":
            balancer.avoid(name)
        if states[name] == "open":
            for _ in range(TRIPS):
                balancer.failed(name)
    return {name: {"struck": 1, "out": OUT}.get(state, 0) for name, state in states.items()}


@given(LOADS, STATES, st.lists(st.tuples(TEXTS, st.sampled_from(IDS)), max_size=20), TEXTS)
def test_what_a_balancer_picks_by_prefix(loads, states, history, text):
    """Nobody that may not be asked; nobody worse than another; and no busier than the threshold allows."""
    balancer, prefixes = Balancer(clock=Clock(100.0)), known(aware(imbalanced_threshold=3))
    strikes = in_state(balancer, loads, states)
    for earlier, name in history:
        prefixes.sent(earlier, name)
    picked = balancer.pick(REPLICAS, strikes, prefer=partial(prefixes.narrow, text))
    usable = [name for name in IDS if states[name] not in ("out", "avoided")]
    if picked is None:
        assert usable == []
        return
    worth = {name: ["well", "open", "struck"].index(states[name]) for name in usable}
    assert worth[picked.id] == min(worth.values())
    equals = [loads[name] for name in usable if worth[name] == worth[picked.id]]
    assert loads[picked.id] - min(equals) <= 3


@given(st.lists(TEXTS, min_size=1, max_size=30))
def test_the_same_prompt_goes_where_it_has_been_while_loads_are_balanced(texts):
    balancer, prefixes = Balancer(), known()
    been: list[tuple[str, str]] = []
    for text in [*texts, *texts]:
        picked = balancer.pick(REPLICAS, {}, prefer=partial(prefixes.narrow, text))
        there = {name for earlier, name in been if earlier.startswith(text)}
        assert picked.id in (there or IDS)
        prefixes.sent(text, picked.id)
        been.append((text, picked.id))


@pytest.mark.parametrize(
    ("routing", "told"),
    [
        ({"policy": "prefix_awre"}, "routing.policy"),
        ({"imbalanced_threshold": 2}, "needs `policy: prefix_aware`"),
        ({"policy": "prefix_aware", "match_rate_threshold": 1.5}, "match_rate_threshold"),
        ({"policy": "prefix_aware", "eviction_target_chars": 10**6}, "must not be above"),
        ({"policy": "prefix_aware", "match_rate": 0.5}, "match_rate_threshold"),
    ],
)
def test_what_does_not_fit_is_refused(routing, told):
    with pytest.raises(ConfigError, match=told):
        validate({"model": "m", "routing": routing}, GatewayConfig, source="args")


def test_by_default_the_least_busy_is_asked():
    assert GatewayConfig(model="m").routing.policy is RoutingPolicy.LEAST_LOADED
