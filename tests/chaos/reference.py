"""The same spec without a failure: all slots in this process, no Ray, no checkpoints."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch

from cluster.config import Settings
from cluster.registry import ModelStore
from train_jobs.dataset import load_dataset
from train_jobs.evaluating import Evaluation, evaluate_together
from train_jobs.formation.group import Group
from train_jobs.formation.messages import Phase
from train_jobs.loop import Wishes
from train_jobs.spec import TrainSpec
from train_jobs.trainee import Trainee


class Told(NamedTuple):
    """What two runs of one spec must agree on in every bit."""

    step: int
    loss: float
    grad_norm: float
    learning_rate: float
    eval_loss: float | None


def uninterrupted(spec: TrainSpec, settings: Settings) -> list[Told]:
    """Every step of a run that nothing happens to."""
    base = ModelStore.open(settings).resolve(spec.model)
    dataset = load_dataset(spec, ModelStore.open(settings).local_dir(base), spec.data.train)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads_per_worker)
    try:
        trainee = Trainee(spec, settings, base, dataset, is_over=bool)
        trainee.warm()
        return [_step(trainee, spec, step) for step in range(1, spec.max_steps + 1)]
    finally:
        torch.set_num_threads(threads)


def _step(trainee: Trainee, spec: TrainSpec, step: int) -> Told:
    result = trainee.loop.run_step(step, Group(), Wishes(), _unheard)
    trainee.step = step
    evaluated = _evaluate(trainee, spec) if spec.eval_steps and step % spec.eval_steps == 0 else None
    return Told(result.step, result.loss, result.grad_norm, result.learning_rate, evaluated)


def _evaluate(trainee: Trainee, spec: TrainSpec) -> float:
    """Over the training data, which these specs name as validation data too."""
    todo = Evaluation(
        spec, trainee.model, trainee.objective, len(trainee.dataset), spec.per_device_eval_batch_size
    )
    return evaluate_together(todo, Group(), lambda: None, nullcontext)["eval_loss"]


def _unheard(phase: Phase, step: int) -> None:
    """Nobody watches this one."""
