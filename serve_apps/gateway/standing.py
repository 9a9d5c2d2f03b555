"""How each version stands, in the words of /metrics: its role, its weight, its running replicas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from cluster.traffic import TrafficPolicy
from serve_apps.gateway.directory import ReplicaDirectory

STABLE, CANDIDATE, IDLE = "stable", "candidate", "idle"


@dataclass(frozen=True, slots=True)
class Standing:
    """One version at the moment of a scrape; `replicas` is None while unknown, and while it sleeps."""

    model: str
    version: str
    role: str
    weight: float
    replicas: int | None


def standings(
    models: Sequence[str], directory: ReplicaDirectory, policy: Callable[[str], TrafficPolicy | None]
) -> Iterator[Standing]:
    """Every version that is deployed or has a part in the traffic, deployed or not."""
    for model in models:
        live = policy(model)
        weights = live.weights() if live else {}
        for version in {**weights, **dict.fromkeys(directory.versions(model))}:
            count = len(directory.replicas(model, version))
            known = directory.ready() and (count or not directory.may_sleep(model, version))
            replicas = count if known else None
            yield Standing(model, version, _role(live, version), weights.get(version, 0.0), replicas)


def _role(live: TrafficPolicy | None, version: str) -> str:
    if live is not None and version == live.stable:
        return STABLE
    return CANDIDATE if live is not None and version == live.candidate else IDLE


class StandingGauges:
    """Filled anew for each scrape, so that they cost a request nothing and forget what is gone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        both = ("model", "version")
        self._info = Gauge(
            "linnet_gateway_version_info",
            "1 for each version and the role that it has.",
            (*both, "role"),
            registry=registry,
        )
        self._weight = Gauge(
            "linnet_gateway_weight", "Percent of the traffic that goes to it.", both, registry=registry
        )
        self._replicas = Gauge(
            "linnet_gateway_replicas", "Running replicas that are known.", both, registry=registry
        )

    def fill(self, found: Iterable[Standing]) -> None:
        """Show these and no others."""
        for gauge in (self._info, self._weight, self._replicas):
            gauge.clear()
        for one in found:
            self._info.labels(one.model, one.version, one.role).set(1)
            self._weight.labels(one.model, one.version).set(one.weight)
            if one.replicas is not None:
                self._replicas.labels(one.model, one.version).set(one.replicas)
