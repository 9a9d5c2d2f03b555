"""Linnet's judge on simulated ticks: all gates at once, a look after each tick."""

from __future__ import annotations

from dataclasses import dataclass

import judge_world as world
import numpy as np
from judge_rules import ALPHA, GATES, LIMIT, MAX_DROP, TOLERATE, Move
from judge_world import Ints, Tick

from serve_apps.rollout.judge.blocks import Block, exceedances
from serve_apps.rollout.judge.evidence import Evidence, Increment, begin, update
from serve_apps.rollout.judge.finding import Verdict, judge
from serve_apps.rollout.judge.sketch import Sketch
from serve_apps.rollout.judge.terms import Direction, Kind, Test

_SURE = {"alpha": ALPHA / GATES, "min_samples": 20}
_RATES = ("errors", "repetitions", "empty")
_RATE = Test(kind=Kind.RATIO, limit=LIMIT, tolerate=TOLERATE, **_SURE)
_QUALITY = Test(kind=Kind.PAIRED, limit=MAX_DROP, direction=Direction.LOWER, **_SURE)
TESTS = {
    **dict.fromkeys(_RATES, _RATE),
    "ttft p50": Test(kind=Kind.QUANTILE_RATIO, quantile=0.5, limit=LIMIT, **_SURE),
    "ttft p95": Test(kind=Kind.QUANTILE_RATIO, quantile=0.95, limit=LIMIT, **_SURE),
    "ttft p99": Test(kind=Kind.QUANTILE_RATIO, quantile=0.99, limit=LIMIT, **_SURE),
    "itl p50": Test(kind=Kind.QUANTILE_RATIO, quantile=0.5, limit=LIMIT, **_SURE),
    "quality": _QUALITY,
}
assert len(TESTS) == GATES


@dataclass
class _Past:
    """What the baseline did in the rollout so far."""

    ttft: Ints
    itl: Ints


class Linnet:
    """Goes on when all gates pass at a weight, and back when one fails."""

    def __init__(self) -> None:
        self._evidence: dict[str, Evidence] = {name: begin(test) for name, test in TESTS.items()}
        self._past = _Past(np.zeros(world.ATOMS, np.int64), np.zeros(world.ATOMS, np.int64))
        self._step = 0
        self.failed: str | None = None

    def look(self, tick: Tick) -> Move:
        """After each tick of ten seconds."""
        for name, increment in self._increments(tick).items():
            self._evidence[name] = update(
                self._evidence[name], TESTS[name], increment, step=self._step, now=0.0
            )
        self._past.ttft += tick.baseline.ttft
        self._past.itl += tick.baseline.itl
        verdicts = {name: judge(self._evidence[name], test) for name, test in TESTS.items()}
        self.failed = next((name for name, found in verdicts.items() if found is Verdict.FAIL), None)
        if self.failed:
            return Move.ROLL_BACK
        if all(found is Verdict.PASS for found in verdicts.values()):
            self._step += 1
            return Move.ADVANCE
        return Move.HOLD

    def _increments(self, tick: Tick) -> dict[str, Increment]:
        ours, theirs = tick.candidate, tick.baseline
        found = {
            name: Increment(blocks=(Block(ours.n, getattr(ours, name), theirs.n, getattr(theirs, name)),))
            for name in _RATES
        }
        callers = (ours.pairs, ours.error_pairs, theirs.pairs, theirs.error_pairs)
        errors = Block(ours.n, ours.errors, theirs.n, theirs.errors, *callers)
        found["errors"] = Increment(blocks=(errors,))
        for metric, buckets in (("ttft", world.TTFT_BUCKETS), ("itl", world.ITL_BUCKETS)):
            sketches = [_sketch(getattr(side, metric), buckets) for side in (ours, theirs, self._past)]
            for name in (name for name in TESTS if name.startswith(metric)):
                found[name] = Increment(blocks=_block(sketches, TESTS[name]))
        same = world.PAIRS_PER_TICK - tick.worse - tick.better
        differences = ((-1.0, tick.worse), (0.0, same), (1.0, tick.better))
        return {**found, "quality": Increment(differences=differences)}


def _block(sketches: list[Sketch], test: Test) -> tuple[Block, ...]:
    candidate, baseline, past = sketches
    block = exceedances(candidate, baseline, past, quantile=test.quantile or 0.5, limit=test.limit)
    return () if block is None else (block,)


def _sketch(atoms: Ints, buckets: tuple[int, ...]) -> Sketch:
    return Sketch({buckets[atom]: int(atoms[atom]) for atom in np.flatnonzero(atoms)})
