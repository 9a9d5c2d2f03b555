"""What a gate asks the judge: kind, limit, direction, and how sure it wants to be."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Self

from pydantic import Field, model_validator

from cluster.config import StrictModel


class Kind(StrEnum):
    """How a gate compares."""

    RATIO = "ratio"
    RATE = "rate"
    QUANTILE_RATIO = "quantile_ratio"
    QUANTILE_LIMIT = "quantile_limit"
    PAIRED = "paired"
    THRESHOLD = "threshold"


class Direction(StrEnum):
    """Which way is worse."""

    HIGHER = "higher"
    LOWER = "lower"


QUANTILES = frozenset({Kind.QUANTILE_RATIO, Kind.QUANTILE_LIMIT})
RATIOS = frozenset({Kind.RATIO, Kind.QUANTILE_RATIO})
_SHARES = frozenset({Kind.RATE, Kind.THRESHOLD, Kind.PAIRED})


class Test(StrictModel):
    """One gate's question.

    `limit`: times the baseline's (`ratio`, `quantile_ratio`), a share of requests (`rate`, `threshold`), a
    value in the metric's unit (`quantile_limit`), or a mean difference (`paired`). A candidate whose own
    rate is on the good side of `tolerate` is well whatever the baseline's is. No verdict comes before
    `min_samples` answers of the candidate at a weight. `alpha`: how often a candidate within the limit fails,
    at most, over a whole rollout; `beta`: how often one beyond it passes, at most, at each weight.
    `duration_s`: for how long a threshold must be exceeded. `below_zero`: values come without their sign.
    """

    # The name is the field's own word, and not that of a class for pytest to collect.
    __test__: ClassVar[bool] = False

    kind: Kind
    limit: float = Field(ge=0, allow_inf_nan=False)
    quantile: float | None = Field(default=None, gt=0, lt=1)
    direction: Direction = Direction.HIGHER
    tolerate: float | None = Field(default=None, gt=0, lt=1)
    min_samples: int = Field(default=100, ge=1)
    alpha: float = Field(default=0.05, gt=0, lt=1)
    beta: float = Field(default=0.1, gt=0, lt=1)
    duration_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    below_zero: bool = False

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        kind = self.kind.value
        if (self.quantile is not None) != (self.kind in QUANTILES):
            raise ValueError(f"{kind} takes {'a' if self.kind in QUANTILES else 'no'} quantile")
        if (self.duration_s is not None) != (self.kind is Kind.THRESHOLD):
            raise ValueError(f"{kind} takes {'a' if self.kind is Kind.THRESHOLD else 'no'} duration_s")
        if self.tolerate is not None and self.kind is not Kind.RATIO:
            raise ValueError(f"{kind} takes no tolerate")
        if self.limit >= 1 and self.kind in _SHARES:
            raise ValueError(f"the limit of {kind} is a share below 1, not {self.limit:g}")
        if self.limit == 0 and self.kind not in {Kind.THRESHOLD, Kind.PAIRED}:
            raise ValueError(f"the limit of {kind} is above 0")
        return self

    @property
    def is_higher_worse(self) -> bool:
        """Whether more is worse."""
        return self.direction is Direction.HIGHER
