"""What is kept of a gate between looks: of constant size, JSON-able, updated by a pure function."""

from __future__ import annotations

from functools import partial

from pydantic import field_validator

from cluster.config import StrictModel
from serve_apps.rollout.judge import clusters, means, paired, rate, ratio, threshold, wealth
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.clusters import Clusters
from serve_apps.rollout.judge.means import Mean
from serve_apps.rollout.judge.ratio import Bets
from serve_apps.rollout.judge.terms import RATIOS, Direction, Kind, Test
from serve_apps.rollout.judge.threshold import Window
from serve_apps.rollout.judge.wealth import Wealth


class Increment(StrictModel):
    """What a look has seen since the last: blocks, one a stratum, or, for `paired`, new differences.

    Of blocks, `rate`, `quantile_limit` and `threshold` read the candidate's half. Differences are the
    candidate's less the baseline's, in [-1, 1], each with its number of pairs.
    """

    blocks: tuple[Block, ...] = ()
    differences: tuple[tuple[float, int], ...] = ()


class Evidence(StrictModel):
    """`worse`: against "within the limit", over all steps; `fine`: against "beyond it", at this step.

    `intolerable` and `tolerable` are the same of the candidate's own rate against `tolerate`. `counts`:
    totals at this step. `mean`: of the paired differences, positive for the worse. `clusters`: of bad
    requests by caller, since the rollout began.
    """

    step: int
    counts: Block = Block()
    worse: Wealth
    fine: Wealth
    intolerable: Wealth | None = None
    tolerable: Wealth | None = None
    mean: Mean = Mean()
    window: Window = Window()
    clusters: Clusters = Clusters()

    @field_validator("step")
    @classmethod
    def _is_a_step(cls, step: int) -> int:
        if step < 0:
            raise ValueError("steps are numbered from 0")
        return step


def begin(test: Test, step: int = 0) -> Evidence:
    """None yet."""
    if test.kind is Kind.PAIRED:
        # What a version answers does not depend on its weight, so pairs count for all steps.
        stake = wealth.staked(paired.BETS.values())
        return Evidence(step=step, worse=stake, fine=stake)
    above, below = bets_of(test)
    worse, fine = wealth.reserved(above.values()), wealth.staked(below.values())
    if test.tolerate is None:
        return Evidence(step=step, worse=worse, fine=fine)
    return Evidence(step=step, worse=worse, fine=fine, intolerable=worse, tolerable=fine)


def update(evidence: Evidence, test: Test, increment: Increment, *, step: int, now: float) -> Evidence:
    """After a look at `step`, at `now` in seconds since the epoch.

    With a new step the bets against the candidate begin anew beside those that run, and those for it
    begin from nothing. Raises IntegrityError for differences outside [-1, 1].
    """
    if test.kind is Kind.PAIRED:
        return _with_pairs(evidence, test, increment, step)
    if step != evidence.step:
        evidence = _at_step(evidence, test, step)
    counts = evidence.counts
    for block in increment.blocks:
        counts = counts.plus(block)
    if test.kind is Kind.THRESHOLD:
        return _with_window(evidence, test, increment, counts, now)
    return _with_bets(evidence, test, increment, counts)


def bets_of(test: Test) -> tuple[Bets, Bets]:
    """Bets on a bad share that is on the wrong side of the limit, and on one that is on the right side."""
    # A quantile's bad share is beyond the limit in either direction, so more of it is always worse.
    if test.kind in {Kind.RATIO, Kind.RATE} and test.direction is Direction.LOWER:
        return ratio.BELOW, ratio.ABOVE
    return ratio.ABOVE, ratio.BELOW


def bad_limit(test: Test) -> float:
    """The limit of the bad share: in the baseline's, or of its own."""
    match test.kind:
        case Kind.QUANTILE_RATIO:
            return 1.0
        case Kind.QUANTILE_LIMIT:
            return tail(test)
    return test.limit


def tail(test: Test) -> float:
    """The share of requests that lies on the bad side of the quantile. For tests that have one."""
    quantile = test.quantile if test.quantile is not None else 0.5
    return 1 - quantile if test.is_higher_worse else quantile


def _log_factors(test: Test, increment: Increment, bets: Bets) -> list[float]:
    if test.kind in RATIOS:
        return ratio.log_factors(increment.blocks, bad_limit(test), bets)
    return rate.log_factors(increment.blocks, bad_limit(test), bets)


def _with_bets(evidence: Evidence, test: Test, increment: Increment, counts: Block) -> Evidence:
    found = clusters.update(evidence.clusters, increment.blocks)
    tempered = partial(_tempered, before=evidence.clusters, after=found)
    above, below = bets_of(test)
    changed: dict[str, object] = {
        "counts": counts,
        "clusters": found,
        "worse": tempered(evidence.worse, above, _log_factors(test, increment, above)),
        "fine": tempered(evidence.fine, below, _log_factors(test, increment, below)),
    }
    if test.tolerate is not None and evidence.intolerable and evidence.tolerable:
        at, blocks = test.tolerate, increment.blocks
        changed |= {
            "intolerable": tempered(evidence.intolerable, above, rate.log_factors(blocks, at, above)),
            "tolerable": tempered(evidence.tolerable, below, rate.log_factors(blocks, at, below)),
        }
    return evidence.model_copy(update=changed)


def _tempered(
    made: Wealth, bets: Bets, log_factors: list[float], *, before: Clusters, after: Clusters
) -> Wealth:
    """To the power of one over the design effect, by which a factor's mean stays at most 1 (Jensen).

    So much is left of a cluster as of one request. Of a cluster that goes on from look to look its begin
    has been taken for less than it is, hence what was gained before shrinks as the highest effect rises.
    """
    if after.highest > before.highest:
        made = wealth.shrink(made, bets.values(), before.highest / after.highest)
    effect = after.design_effect
    return wealth.grow(made, [factor / effect for factor in log_factors])


def _at_step(evidence: Evidence, test: Test, step: int) -> Evidence:
    shares = bets_of(test)[0].values()
    kept: dict[str, object] = {
        "worse": wealth.restart(evidence.worse, shares),
        "window": evidence.window,
        "clusters": evidence.clusters,
    }
    if evidence.intolerable is not None:
        kept["intolerable"] = wealth.restart(evidence.intolerable, shares)
    return begin(test, step).model_copy(update=kept)


def _with_pairs(evidence: Evidence, test: Test, increment: Increment, step: int) -> Evidence:
    found = increment.differences
    if not test.is_higher_worse:
        found = tuple((-difference, number) for difference, number in found)
    return evidence.model_copy(
        update={
            "step": step,
            "worse": wealth.grow(evidence.worse, paired.log_factors(found, test.limit, above=True)),
            "fine": wealth.grow(evidence.fine, paired.log_factors(found, test.limit, above=False)),
            "mean": means.update(evidence.mean, found),
        }
    )


def _with_window(evidence: Evidence, test: Test, increment: Increment, counts: Block, now: float) -> Evidence:
    n = sum(block.n_candidate for block in increment.blocks)
    bad = sum(block.bad_candidate for block in increment.blocks)
    duration_s = test.duration_s or 1.0
    window = threshold.update(evidence.window, n, bad, now=now, duration_s=duration_s)
    return evidence.model_copy(update={"counts": counts, "window": window})
