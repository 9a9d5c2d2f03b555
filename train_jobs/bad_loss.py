"""What follows a bad loss: an error that ends the run on every member alike, or the next step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.errors import LinnetError
from train_jobs.spec import BadLoss

if TYPE_CHECKING:
    from train_jobs.loop import StepResult

# Nothing that is left out changes the weights, so what so many steps in a row suffer from is in them.
MOST_SKIPS = 3


def told_of(result: StepResult) -> str:
    """The step and its numbers."""
    return f"Step {result.step} has the loss {result.loss} and the gradient norm {result.grad_norm}"


def error_of(
    rule: BadLoss, result: StepResult, skips: int, sample_ids: Callable[[int], list[str]]
) -> LinnetError | None:
    """What ends the run after a bad loss; None to leave its batch out.

    `skips` counts the steps in a row that were bad, this one with them; `sample_ids` names those of a step.
    """
    if rule is BadLoss.STOP:
        return LinnetError(
            f"{told_of(result)}; its samples are {', '.join(sample_ids(result.step))}.",
            code="train.bad_loss" if math.isfinite(result.loss) else "train.not_finite",
            hint="Lower learning_rate, look at these samples with `linnet data inspect`, or set "
            "`failures.on_bad_loss=skip`.",
        )
    if skips < MOST_SKIPS:
        return None
    first = result.step - skips + 1
    steps = [f"step {step}: {', '.join(sample_ids(step))}" for step in range(first, result.step + 1)]
    return LinnetError(
        f"{told_of(result)}, the last of {skips} bad losses in a row: the model has diverged. "
        f"Their samples are {'; '.join(steps)}.",
        code="train.diverged",
        hint="What made it diverge was trained before these steps. Start a run of another name with a lower "
        "learning_rate, or with a higher failures.spike_factor where such losses are harmless.",
    )
