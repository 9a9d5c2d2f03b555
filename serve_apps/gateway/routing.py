"""What the YAML's `routing` says: which replica of a version takes a request."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from cluster.config import StrictModel


class RoutingPolicy(StrEnum):
    """How a replica is chosen among those that have not just failed."""

    LEAST_LOADED = "least_loaded"
    PREFIX_AWARE = "prefix_aware"


class RoutingConfig(StrictModel):
    """The keys beside `policy` are those of Ray Serve LLM's PrefixCacheAffinityRouter.

    `imbalanced_threshold`: with a larger difference between the requests in flight at the busiest
    and at the least busy replica, the least busy one is chosen. `match_rate_threshold`: the share of a
    prompt that a replica must have seen to be chosen for it. `eviction_threshold_chars`: what is
    remembered of each replica; beyond it the oldest is forgotten, down to `eviction_target_chars`.
    """

    policy: RoutingPolicy = RoutingPolicy.LEAST_LOADED
    imbalanced_threshold: float = Field(default=4.0, ge=0.0)
    match_rate_threshold: float = Field(default=0.1, ge=0.0, le=1.0)
    eviction_threshold_chars: int = Field(default=400_000, ge=1)
    eviction_target_chars: int = Field(default=360_000, ge=0)

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.policy is not RoutingPolicy.PREFIX_AWARE:
            for name, field in type(self).model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(f"`{name}` needs `policy: {RoutingPolicy.PREFIX_AWARE.value}`")
        if self.eviction_target_chars > self.eviction_threshold_chars:
            raise ValueError("`eviction_target_chars` must not be above `eviction_threshold_chars`")
        return self
