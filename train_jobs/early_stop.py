"""When to stop a run that no longer gets better: a pure function of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from train_jobs.run_files import StepRecord

_LOSS = "eval_loss"


@dataclass(frozen=True)
class Decision:
    """What the evaluations so far come to.

    `best_step` has the lowest loss of all, None before the first finite one; `waited` counts the
    evaluations since the last that was better by more than the threshold.
    """

    stop: bool
    best_step: int | None
    best_loss: float
    waited: int


@dataclass(frozen=True)
class EarlyStop:
    """Stop after `patience` evaluations in a row, none better than the best by more than `threshold`.

    As transformers' EarlyStoppingCallback, with a loss: lower is better. A loss that is not finite
    is never better.
    """

    patience: int
    threshold: float = 0.0

    def decide(self, evaluations: Iterable[tuple[int, float]]) -> Decision:
        """Judge `(step, loss)` pairs in order of step; a step that comes twice counts once, as it came last.

        Depends on the pairs alone, so that a resumed run decides as one that was never interrupted.
        """
        best_step: int | None = None
        best, waited = math.inf, 0
        for step, loss in sorted(dict(evaluations).items()):
            is_better = loss < best and math.isfinite(loss)
            enough = is_better and (best_step is None or best - loss > self.threshold)
            waited = 0 if enough else waited + 1
            if is_better:
                best_step, best = step, loss
        return Decision(stop=waited >= self.patience, best_step=best_step, best_loss=best, waited=waited)


def evaluations(records: Iterable[StepRecord], up_to: int) -> list[tuple[int, float]]:
    """`(step, loss)` of the evaluations in a run's journal, those after the step `up_to` left out."""
    return [(r.step, r.eval[_LOSS]) for r in records if _LOSS in r.eval and r.step <= up_to]
