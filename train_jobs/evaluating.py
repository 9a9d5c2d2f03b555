"""Evaluation during a run: the validation samples dealt out over the members, summed in one order."""

from __future__ import annotations

import torch

from train_jobs.formation.group import Group
from train_jobs.model import autocast
from train_jobs.objectives import Objective
from train_jobs.sampling import split_microbatches
from train_jobs.spec import TrainSpec


def evaluate_together(
    spec: TrainSpec,
    model: torch.nn.Module,
    objective: Objective,
    count: int,
    group: Group,
    *,
    in_step: bool = False,
) -> dict[str, float]:
    """Mean loss (`eval_loss`) and metrics over samples 0 to `count`, equal on every member.

    With `in_step` all of them call the model equally often, as a sharded one needs. Raises
    GroupLostError. Draws nothing at random and leaves the model in the mode that it was in.
    """
    batches = split_microbatches(list(range(count)), spec.per_device_eval_batch_size)
    was_training = model.training
    model.eval()
    results: dict[int, dict[str, float]] = {}
    with torch.no_grad(), autocast(spec):
        for place in range(group.rank, len(batches), group.size):
            loss, metrics = objective.loss(model, batches[place])
            results[place] = {"loss": float(loss), **metrics}
        if in_step and len(results) * group.size < len(batches):
            objective.loss(model, batches[0])
    model.train(was_training)
    names = sorted({name for found in group.gather(sorted(set().union(*results.values()))) for name in found})
    table = torch.zeros(len(batches), len(names), dtype=torch.float64)
    for place, found in results.items():
        table[place] = torch.tensor([found[name] for name in names], dtype=torch.float64)
    group.sum(table)
    weight = objective.weight(range(count))
    return {f"eval_{name}": sum(table[:, place].tolist()) / weight for place, name in enumerate(names)}
