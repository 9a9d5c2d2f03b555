"""The traffic policy of an endpoint and the one function that splits by it (rule 8)."""

from __future__ import annotations

import hashlib
from typing import Self

from pydantic import Field, model_validator

from cluster.config import StrictModel
from cluster.judging import Judging

BUCKETS = 10_000

HALF = 50.0
"""Percent from which all of stable's traffic is no more than the candidate's."""


class TrafficPolicy(StrictModel):
    """Who gets what share of a model's traffic.

    `weight` is the candidate's share in percent, in steps of 0.01; stable gets the rest.
    `revision` grows with every change, so that a gateway knows what is newer. `judging` is there while
    the candidate is judged.
    """

    model: str
    revision: int
    stable: str
    candidate: str | None = None
    weight: float = Field(default=0.0, ge=0.0, le=100.0)
    judging: Judging | None = None

    @model_validator(mode="after")
    def _candidate_differs(self) -> Self:
        if self.candidate is None and self.weight:
            raise ValueError("a weight needs a candidate")
        if self.candidate is None and self.judging is not None:
            raise ValueError("judging needs a candidate")
        if self.candidate == self.stable:
            raise ValueError(f"candidate and stable are both {self.stable}")
        return self

    def weights(self) -> dict[str, float]:
        """Percent for each version, stable first."""
        shares = {self.stable: 100.0 - self.weight}
        if self.candidate is not None:
            shares[self.candidate] = self.weight
        return shares

    @property
    def has_second_slice(self) -> bool:
        """Whether a part of stable's traffic, as large as the candidate's, goes to fresh replicas."""
        return self.judging is not None and self.judging.fresh is not None and self.weight < HALF


def bucket(model: str, key: str) -> int:
    """Where a key falls, 0 to 9,999: the same in every process and after every restart."""
    digest = hashlib.blake2b(f"{model}\x00{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def route(policy: TrafficPolicy, key: str) -> str:
    """The version that answers `key`.

    The candidate owns the lowest buckets, so raising its weight moves keys to it and none away.
    """
    if policy.candidate is not None and bucket(policy.model, key) < round(policy.weight * 100):
        return policy.candidate
    return policy.stable


def is_in_second_slice(policy: TrafficPolicy, key: str) -> bool:
    """Whether `key`, which stable answers, is for its fresh replicas.

    The slice has the highest buckets and is as wide as the candidate's, so raising the weight moves keys
    to it and none away, up to the half of the traffic, from which there is none.
    """
    width = round(policy.weight * 100)
    return policy.has_second_slice and bucket(policy.model, key) >= BUCKETS - width
