"""The learning rate as a pure function of the step, by the same formulas as transformers' schedules."""

from __future__ import annotations

import math

from train_jobs.spec import SchedulerType, TrainSpec


def warmup_steps(spec: TrainSpec) -> int:
    """Steps over which the learning rate rises from 0: `warmup_steps`, or else `warmup_ratio` of all.

    None under `constant`, which transformers lets begin at its full value.
    """
    if spec.lr_scheduler_type is SchedulerType.CONSTANT:
        return 0
    return spec.warmup_steps or math.ceil(spec.max_steps * spec.warmup_ratio)


def learning_rate(spec: TrainSpec, step: int) -> float:
    """Learning rate of `step`, counted from 1."""
    done, warmup = step - 1, warmup_steps(spec)
    if done < warmup:
        return spec.learning_rate * done / warmup
    progress = (done - warmup) / max(1, spec.max_steps - warmup)
    return spec.learning_rate * _factor(spec.lr_scheduler_type, progress)


def _factor(kind: SchedulerType, progress: float) -> float:
    if kind is SchedulerType.LINEAR:
        return max(0.0, 1.0 - progress)
    if kind is SchedulerType.COSINE:
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return 1.0
