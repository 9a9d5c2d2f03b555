"""What a gateway has counted of the answers of a model, as it is stored."""

from __future__ import annotations

from pydantic import Field

from cluster.config import StrictModel

PAIRS = "pairs_"
"""Before the name of a count: in how many ordered pairs both were of one caller and in one minute."""

FRESH = "fresh:"
"""Before the name of stable: what was counted of the answers that a candidate is compared with.

Where the policy has `fresh`; all else of stable is counted under its name."""


class Sketch(StrictModel):
    """How many values were zero, and how many lie in each bucket, as pairs of an index and a number.

    Bucket `i` is above `GAMMA ** (i - 1)` and at most `GAMMA ** i`; see `serve_apps.sketch`.
    """

    zeros: int = 0
    buckets: tuple[tuple[int, int], ...] = ()


class VersionTally(StrictModel):
    """`counts` by what was counted, `sketches` by metric and stratum. What is missing is 0."""

    counts: dict[str, int] = Field(default_factory=dict)
    sketches: dict[str, dict[str, Sketch]] = Field(default_factory=dict)


class Pairs(StrictModel):
    """Pairs of answers to the same prompt: in how many a check found something in both, or in one alone."""

    n: int = 0
    both: int = 0
    only_candidate: int = 0
    only_stable: int = 0


class Tally(StrictModel):
    """Cumulative: it only grows. `pairs` is by text check.

    `shadow_requests`: copies that were sent; `shadow_errors`: those of them that got no answer.
    """

    versions: dict[str, VersionTally] = Field(default_factory=dict)
    pairs: dict[str, Pairs] = Field(default_factory=dict)
    shadow_requests: int = 0
    shadow_errors: int = 0
