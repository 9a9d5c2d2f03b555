"""What statisticians have for one look at the end, beside a gate's numbers: to read, not to judge by."""

from __future__ import annotations

from serve_apps.rollout import compact, quantities
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge import paired, quantiles
from serve_apps.rollout.judge.means import Mean
from serve_apps.rollout.judge.quantiles import Interval
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import QUANTILES, Kind, Test
from serve_apps.rollout.looks import Progress, Shown
from serve_apps.rollout.metrics import LOGPROB

ERROR = 0.05
"""Of each interval here."""

SEED = 0
"""Of the bootstrap, so that the same pairs always have the same interval."""


def for_reading(gate: Gate, test: Test, progress: Progress) -> str:
    """A clause for one gate; empty where there is nothing to say.

    Of pairs McNemar's exact p, where each difference is -1, 0 or 1, and the interval of the paired
    bootstrap. Of a quantile where it is in both versions, by the band of Howard and Ramdas that holds for
    all quantiles at once and at all times.
    """
    evidence, shown = progress.evidence.get(gate.name), progress.shown.get(gate.metric or "")
    if test.kind is Kind.PAIRED and evidence is not None and evidence.mean.n:
        return ", ".join([*_mcnemar(evidence.mean), _bootstrap(evidence.mean)])
    if test.kind in QUANTILES and shown is not None:
        return _bands(gate, test, shown)
    return ""


def _mcnemar(mean: Mean) -> list[str]:
    *between, worse = mean.weights[1:]
    if any(weight for at, weight in enumerate(between, 1) if at != len(mean.weights) // 2):
        return []
    better = mean.weights[0]
    p = paired.mcnemar(round(worse), round(better))
    return [f"{worse:,.0f} worse and {better:,.0f} better of {mean.n:,}: McNemar's p {p:.2g}"]


def _bootstrap(mean: Mean) -> str:
    # numpy, which only those who look need.
    from serve_apps.rollout.judge import bootstrap

    low, high = bootstrap.interval(mean.points, error=ERROR, seed=SEED)
    return f"paired bootstrap {100 * low:.3g} to {100 * high:.3g} points"


def _bands(gate: Gate, test: Test, shown: Shown) -> str:
    sides = {"candidate": compact.read(shown.candidate)}
    if test.kind is Kind.QUANTILE_RATIO:
        sides["baseline"] = compact.read(shown.baseline)
    bands = [
        f"{name} {_band(gate, sketch, test.quantile or 0.5)}"
        for name, sketch in sides.items()
        if sketch.total
    ]
    return f"p{100 * (gate.quantile or 0):g} by {1 - ERROR:.0%} bands: {', '.join(bands)}" if bands else ""


def _band(gate: Gate, sketch: Sketch, quantile: float) -> str:
    low, high = _as_metric(gate, quantiles.band(sketch, quantile, error=ERROR))
    if low is None:
        return "not known" if high is None else f"up to {quantities.of_metric(gate, high)}"
    if high is None:
        return f"from {quantities.of_metric(gate, low)}"
    return f"{quantities.of_metric(gate, low)} to {quantities.of_metric(gate, high)}"


def _as_metric(gate: Gate, found: Interval) -> tuple[float | None, float | None]:
    """Sketches hold a log-probability's distance from certainty; a low end of 0 says nothing."""
    low, high = found[0] or None, found[1]
    return quantities.mirrored(low, high) if gate.metric == LOGPROB else (low, high)
