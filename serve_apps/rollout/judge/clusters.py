"""By how much bad requests come in clusters: so many of them tell what one tells that stands alone.

Callers stay with one version, so that one caller's five errors are not spread over the versions as those of
five callers are. The design effect (Kish, "Survey Sampling", 1965; the dispersion of a quasi-likelihood,
McCullagh and Nelder, "Generalized Linear Models", 1989) is

    1 + (pairs of bad requests of one caller - as many as chance makes) / bad requests.

It is 1 where each stands for itself, also where callers ask much, and 5 where all come in fives. What chance
makes is told in stretches of some hundred requests, by the share of bad ones among all pairs of the stretch:
so the rate may drift as it likes, as it may from block to block.
"""

from __future__ import annotations

from collections.abc import Iterable

from cluster.config import StrictModel
from serve_apps.rollout.judge.blocks import Block

STRETCH = 100
"""So many requests: in fewer, one caller's burst would be most of what chance is told by."""


class Side(StrictModel):
    """Of one version since the rollout began.

    `beyond`: bad pairs beyond chance in the stretches that are over; `stretch`: requests, bad ones, and pairs
    of both in the present one.
    """

    bad: int = 0
    beyond: float = 0.0
    stretch: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def design_effect(self) -> float:
        """At least 1."""
        return 1 + max(self.beyond + _beyond_chance(*self.stretch), 0.0) / max(self.bad, 1)


class Clusters(StrictModel):
    """`highest`: the largest design effect that there has been."""

    candidate: Side = Side()
    baseline: Side = Side()
    highest: float = 1.0

    @property
    def design_effect(self) -> float:
        """The larger of the two: both are asked by the same people, of whom the candidate knows few."""
        return max(self.candidate.design_effect, self.baseline.design_effect)


def update(clusters: Clusters, blocks: Iterable[Block]) -> Clusters:
    """With the blocks of a look."""
    ours, theirs = clusters.candidate, clusters.baseline
    for one in blocks:
        ours = grow(ours, one.n_candidate, one.bad_candidate, one.pairs_candidate, one.bad_pairs_candidate)
        theirs = grow(theirs, one.n_baseline, one.bad_baseline, one.pairs_baseline, one.bad_pairs_baseline)
    found = Clusters(candidate=ours, baseline=theirs)
    return found.model_copy(update={"highest": max(clusters.highest, found.design_effect)})


def grow(side: Side, n: int, bad: int, pairs: int, bad_pairs: int) -> Side:
    """With requests, bad ones among them, and the pairs of one caller that they make of both."""
    stretch = tuple(map(sum, zip(side.stretch, (n, bad, pairs, bad_pairs), strict=True)))
    if stretch[0] < STRETCH:
        return Side(bad=side.bad + bad, beyond=side.beyond, stretch=stretch)
    return Side(bad=side.bad + bad, beyond=side.beyond + _beyond_chance(*stretch))


def _beyond_chance(n: int, bad: int, pairs: int, bad_pairs: int) -> float:
    """Whichever requests are the bad ones, each pair is as often both as any other."""
    return bad_pairs - pairs * bad * (bad - 1) / (n * (n - 1)) if n > 1 else float(bad_pairs)
