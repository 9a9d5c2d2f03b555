"""The same spec without a failure: all slots in this process, no Ray, no checkpoints."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cluster.config import Settings
from cluster.registry import ModelStore
from train_jobs.dataset import load_dataset
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


def uninterrupted(spec: TrainSpec, settings: Settings) -> list[Told]:
    """Every step of a run that nothing happens to."""
    base = ModelStore.open(settings).resolve(spec.model)
    dataset = load_dataset(spec, ModelStore.open(settings).local_dir(base), spec.data.train)
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads_per_worker)
    try:
        trainee = Trainee(spec, settings, base, dataset, is_over=bool)
        trainee.warm()
        return [_step(trainee, step) for step in range(1, spec.max_steps + 1)]
    finally:
        torch.set_num_threads(threads)


def _step(trainee: Trainee, step: int) -> Told:
    result = trainee.loop.run_step(step, Group(), Wishes(), _unheard)
    trainee.step = step
    return Told(result.step, result.loss, result.grad_norm, result.learning_rate)


def _unheard(phase: Phase, step: int) -> None:
    """Nobody watches this one."""
