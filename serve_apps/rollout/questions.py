"""The questions of a policy, and what each counts in a look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.tally import PAIRS, Pairs, VersionTally
from serve_apps.rollout import compact
from serve_apps.rollout.gate_spec import Gate, Source
from serve_apps.rollout.judge import blocks
from serve_apps.rollout.judge.blocks import Block
from serve_apps.rollout.judge.evidence import Increment
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import Kind, Test
from serve_apps.rollout.looks import Counted, Strata, Told
from serve_apps.rollout.metrics import METRICS, Metric
from serve_apps.rollout.metrics import Kind as MetricKind
from serve_apps.rollout.question import limit_of_values, question, worse
from serve_apps.rollout.spec import RolloutSpec


def is_tested(gate: Gate) -> bool:
    """Whether the judge decides it, rather than somebody outside or a plain count."""
    return gate.metric is not None and METRICS[gate.metric].kind is not MetricKind.REPLICA


def tests(spec: RolloutSpec) -> dict[str, Test]:
    """The questions of a policy by the names of their gates; `alpha` is shared by those that can fail it."""
    asked = [gate for gate in spec.gates if is_tested(gate)]
    sharing = [gate for gate in asked if gate in spec.judged and gate.for_ is None]
    alpha = spec.alpha / max(len(sharing), 1)
    return {gate.name: question(gate, alpha) for gate in asked}


def increment(
    gate: Gate, test: Test, counted: Iterable[Counted], past: Mapping[str, Strata], told: Told | None
) -> Increment:
    """What a look adds to a gate's evidence."""
    metric = METRICS[gate.metric or ""]
    if metric.kind is MetricKind.PAIRED:
        return Increment(differences=told.differences if told else ())
    if gate.source is Source.SHADOW:
        pairs = [one.pairs[metric.event] for one in counted if metric.event in one.pairs]
        return Increment(differences=tuple(_differences(pairs)))
    if metric.kind is MetricKind.RATE:
        return Increment(blocks=tuple(_of_counts(one, metric) for one in counted))
    found = [block for one in counted for block in _of_sketches(one, gate, test, metric, past)]
    return Increment(blocks=tuple(found))


def _differences(pairs: Iterable[Pairs]) -> Iterable[tuple[float, int]]:
    for one in pairs:
        yield 1.0, one.only_candidate
        yield -1.0, one.only_stable
        yield 0.0, one.n - one.only_candidate - one.only_stable


def _of_counts(one: Counted, metric: Metric) -> Block:
    ours, theirs = one.candidate.counts, one.baseline.counts
    names = metric.exposure, metric.event
    of_callers = tuple(PAIRS + name for name in names)
    counts = [side.get(name, 0) for part in (names, of_callers) for side in (ours, theirs) for name in part]
    return Block(*counts)


def _of_sketches(
    one: Counted, gate: Gate, test: Test, metric: Metric, past: Mapping[str, Strata]
) -> Iterable[Block]:
    sides = (one.candidate.sketches.get(metric.name, {}), one.baseline.sketches.get(metric.name, {}))
    # In one order whatever the process: sums of floats depend on it, and looks are done again.
    for stratum in sorted(sides[0].keys() | sides[1].keys()):
        ours, theirs = (_sketch(side, metric, stratum) for side in (one.candidate, one.baseline))
        if test.kind is Kind.QUANTILE_RATIO:
            before = past.get(metric.name, {}).get(stratum)
            block = blocks.exceedances(
                ours,
                theirs,
                compact.read(before),
                quantile=test.quantile or 0.5,
                limit=test.limit,
                direction=test.direction,
            )
        else:
            block = blocks.beyond(ours, limit=limit_of_values(gate), direction=worse(gate))
        if block is not None:
            yield block


def _sketch(side: VersionTally, metric: Metric, stratum: str) -> Sketch:
    return compact.read(side.sketches.get(metric.name, {}).get(stratum))
