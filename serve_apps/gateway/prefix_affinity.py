"""Prompts that begin alike go to the replica that has computed the beginning, while loads are balanced.

The rules are those of Ray Serve LLM's PrefixCacheAffinityRouter, which routes calls of Serve handles;
the gateway calls replicas by HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence

from serve_apps.gateway.directory import Replica, ReplicaDirectory
from serve_apps.gateway.ray_prefix_tree import new_tree
from serve_apps.gateway.routing import RoutingConfig
from serve_apps.gateway.selection import Choice

_PRIVATE_USE, _PRIVATE_USE_SIZE = 0xE000, 0x1900
"""Characters that stand for nothing in Unicode."""


class VersionPrefixes:
    """What each replica of one version, and of the adapters on it, was sent by this gateway."""

    def __init__(self, config: RoutingConfig) -> None:
        self._config = config
        self._tree = new_tree()
        self._turn = 0.0
        self.replicas: Sequence[Replica] = ()

    def follow(self, running: Sequence[Replica]) -> None:
        """Forget replicas that went, and know those that came."""
        before, now = {r.id for r in self.replicas}, {r.id for r in running}
        self._tree.remove_tenants(list(before - now))
        self._tree.add_tenants(list(now - before), self._next_turn())
        self.replicas = running

    def narrow(self, text: str, loads: Mapping[str, int]) -> Collection[str]:
        """Of these replicas with their requests in flight, those that the prompt should go to.

        All of them where loads are not balanced; those that know its longest beginning, where it is
        long enough; else those that are remembered least of.
        """
        if max(loads.values()) - min(loads.values()) > self._config.imbalanced_threshold:
            return loads
        matched, owners = self._tree.prefix_match(text, list(loads))
        if owners and len(matched) >= self._config.match_rate_threshold * len(text):
            return list(owners)
        sizes = {name: self._tree.size(name) for name in loads}
        least = min(sizes.values())
        return [name for name, size in sizes.items() if size == least]

    def sent(self, text: str, replica_id: str) -> None:
        """The replica gets the prompt, and will have its beginning computed."""
        tree, config = self._tree, self._config
        tree.insert(text, replica_id, self._next_turn())
        if tree.size(replica_id) > config.eviction_threshold_chars:
            # One prompt at a time, since each has a turn of its own.
            while tree.size(replica_id) > config.eviction_target_chars:
                if not tree.evict_tenant_by_lru(replica_id, 1):
                    break

    def _next_turn(self) -> float:
        self._turn += 1.0
        return self._turn


class PrefixAffinity:
    """The prefixes of each version that has several replicas.

    Adapters share their base's replicas, and its bound of memory. They share no prefixes with it,
    for an engine computes the same text otherwise for each.
    """

    def __init__(self, config: RoutingConfig, directory: ReplicaDirectory) -> None:
        self._config = config
        self._directory = directory
        self._versions: dict[Choice, VersionPrefixes] = {}

    def of(self, choice: Choice) -> VersionPrefixes | None:
        """Those of the replicas that answer for a version; None where there is no choice."""
        host = Choice(choice.model, self._directory.host(choice.model, choice.version))
        running = self._directory.replicas(host.model, host.version)
        found = self._versions.get(host)
        # The directory makes a new sequence when something has changed, and only then.
        if found is not None and found.replicas is running:
            return found
        if found is None and len(running) < 2:
            return None
        self._forget_versions()
        if len(running) < 2:
            self._versions.pop(host, None)
            return None
        if found is None:
            found = self._versions[host] = VersionPrefixes(self._config)
        found.follow(running)
        return found

    def begin(self, choice: Choice, text: str) -> str:
        """The text as it is remembered for a version: an adapter's begins with a character of its own."""
        if self._directory.host(choice.model, choice.version) == choice.version:
            return text
        return chr(_PRIVATE_USE + zlib.crc32(choice.version.encode()) % _PRIVATE_USE_SIZE) + text

    def _forget_versions(self) -> None:
        for choice in list(self._versions):
            if not self._directory.replicas(choice.model, choice.version):
                del self._versions[choice]
