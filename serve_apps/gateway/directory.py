"""What a gateway knows of the cluster: which replicas of which version are running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cluster.config import StrictModel


class Replica(StrictModel):
    """One running replica of one version, and of the adapters on top of it.

    vLLM's own routes hang below `base_url` (`{base_url}/v1/chat/completions`). An `id` is never
    used again for another replica.
    """

    id: str
    base_url: str


class ReplicaDirectory(Protocol):
    """In memory and cheap: a gateway asks on every request."""

    def replicas(self, model: str, version: str) -> Sequence[Replica]:
        """Running replicas of a version; empty when there is none."""
        ...

    def planned(self, model: str, version: str) -> int | None:
        """How many replicas Serve is to keep; None where that goes by load, or was not heard yet."""
        ...

    def may_sleep(self, model: str, version: str) -> bool:
        """Whether Serve was told to keep no replica of it while nobody asks."""
        ...

    def versions(self, model: str) -> Sequence[str]:
        """Labels of the versions that are deployed."""
        ...

    def host(self, model: str, version: str) -> str:
        """The version whose replicas answer: itself, or of an adapter the one that it is put on."""
        ...

    def gateways(self) -> Sequence[str]:
        """Addresses, as `host:port`, of the gateways that answer beside and including this one.

        It may connect to some: ask in a thread.
        """
        ...

    def ready(self) -> bool:
        """Whether the cluster has been heard from once."""
        ...
