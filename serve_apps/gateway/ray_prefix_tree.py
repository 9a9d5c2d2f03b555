"""The prefix tree of Ray Serve LLM 2.60, which remembers what text each replica was sent.

Ray keeps it private, so this is the one place that touches it; `tests/serve_apps/gateway/
test_ray_prefix_tree.py` says which version it holds for. The file is loaded by its path, since its
package would import vLLM.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HOLDS_FOR = "2.60"

_FILE = "llm/_internal/serve/routing_policies/prefix_aware/prefix_tree.py"

NODE_CHARS = 128
"""What a node counts as beside its text: it takes about 1 KB, and short ones must not fill the memory."""


def shared_prefix_count(one: str, other: str) -> int:
    """With how many equal characters two texts begin."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    equal, unequal = 0, most
    while unequal - equal > 1:
        middle = (equal + unequal) // 2
        if one[equal:middle] == other[equal:middle]:
            equal = middle
        else:
            unequal = middle
    return equal


def new_tree() -> Any:
    """Ray's PrefixTree, with a `size` of each tenant that counts nodes as well as characters."""
    return _tree_class()()


def _ray_class() -> type:
    spec = importlib.util.find_spec("ray")
    folders: Iterable[str] = (spec and spec.submodule_search_locations) or ()
    file = next(path for folder in folders if (path := Path(folder, _FILE)).is_file())
    loading = importlib.util.spec_from_file_location("linnet_ray_prefix_tree", file)
    if loading is None or loading.loader is None:
        raise ImportError(f"{file} cannot be loaded")
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    found: type = module.PrefixTree
    return found


@functools.cache
def _tree_class() -> type:
    base: Any = _ray_class()

    class Tree(base):  # type: ignore[misc]
        # Ray compares character by character in Python, which takes 0.3 ms for 4,000 of them.
        _shared_prefix_count = staticmethod(shared_prefix_count)

        def __init__(self) -> None:
            super().__init__()
            self._nodes: Counter[str] = Counter()

        def size(self, tenant: str) -> int:
            """What is remembered of a tenant, in characters."""
            return int(self.tenant_to_char_count.get(tenant, 0)) + NODE_CHARS * self._nodes[tenant]

        def _insert_node_into_linked_list(self, node: Any, newer: Any, older: Any, tenant: str) -> None:
            self._nodes[tenant] += tenant not in node.tenant_to_newer_node
            super()._insert_node_into_linked_list(node, newer, older, tenant)

        def _remove_node_from_linked_list(self, node: Any, tenant: str) -> None:
            self._nodes[tenant] -= tenant in node.tenant_to_newer_node
            super()._remove_node_from_linked_list(node, tenant)

        def remove_tenants(self, tenants: list[str]) -> Any:
            removed = super().remove_tenants(tenants)
            for tenant in tenants:
                self._nodes.pop(tenant, None)
            return removed

    return Tree
