"""Ray's private prefix tree is as it was in the version named, and ours is the same but quicker."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import ray_prefix_tree
from serve_apps.gateway.ray_prefix_tree import NODE_CHARS, new_tree, shared_prefix_count
from serve_apps.gateway.routing import RoutingConfig

TENANTS = ["a", "b", "c"]
TEXT = st.text("xyé", max_size=12)
DEEDS = st.one_of(
    st.tuples(st.just("insert"), TEXT, st.sampled_from(TENANTS)),
    st.tuples(st.just("evict_tenant_by_lru"), st.sampled_from(TENANTS), st.integers(1, 9)),
    st.tuples(st.just("remove_tenants"), st.lists(st.sampled_from(TENANTS), max_size=2)),
    st.tuples(st.just("add_tenants"), st.lists(st.sampled_from(TENANTS), max_size=2)),
    st.tuples(st.just("prefix_match"), TEXT, st.lists(st.sampled_from(TENANTS), min_size=1, unique=True)),
)


def test_it_holds_for_the_installed_version():
    assert version("ray").startswith(ray_prefix_tree.HOLDS_FOR + ".")


def test_rays_router_still_has_the_settings_that_ours_are_named_after():
    from ray.serve.llm.request_router import PrefixCacheAffinityRouter

    theirs = inspect.signature(PrefixCacheAffinityRouter.initialize_state).parameters
    ours = RoutingConfig.model_fields.keys() - {"policy"}
    assert ours <= theirs.keys()
    same = ours - {"imbalanced_threshold"}
    assert {n: theirs[n].default for n in same} == {n: RoutingConfig.model_fields[n].default for n in same}


def test_it_imports_nothing_but_ray():
    program = (
        "import sys, ray.serve; before = set(sys.modules)\n"
        "from serve_apps.gateway.ray_prefix_tree import new_tree; new_tree()\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        "serve_apps",
        "serve_apps.gateway",
        "serve_apps.gateway.ray_prefix_tree",
    }


@given(st.text("ab", max_size=9), st.text("ab", max_size=9), st.text("ab", max_size=300))
def test_texts_are_compared_character_by_character(one, other, before):
    pairs = zip(before + one, before + other, strict=False)
    expected = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    assert shared_prefix_count(before + one, before + other) == expected


def nodes(node, tenant) -> int:
    own = bool(node.text) and tenant in node.tenant_to_last_access_time
    return own + sum(nodes(child, tenant) for child in node.edge_label_to_child.values())


@given(st.lists(DEEDS, max_size=40))
def test_it_does_what_rays_own_does_and_counts_its_nodes(deeds):
    tree, plain = new_tree(), ray_prefix_tree._ray_class()()
    for both in (tree, plain):
        both.add_tenants(["a", "b"], 0.0)
    for turn, (deed, *arguments) in enumerate(deeds, start=1):
        timed = [float(turn)] if deed in ("insert", "add_tenants") else []
        results = [getattr(both, deed)(*arguments, *timed) for both in (tree, plain)]
        assert results[0] == results[1]
        assert tree.tenant_to_char_count == plain.tenant_to_char_count
        for tenant in TENANTS:
            chars = tree.tenant_to_char_count.get(tenant, 0)
            assert tree.size(tenant) == chars + NODE_CHARS * nodes(tree.root, tenant)
