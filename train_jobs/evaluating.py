"""Evaluation during a run: the validation samples dealt out over the members, summed in one order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from train_jobs.formation.group import Group
from train_jobs.layout import Waiting
from train_jobs.model import autocast
from train_jobs.objectives import Objective
from train_jobs.sampling import split_microbatches
from train_jobs.spec import TrainSpec


@dataclass(frozen=True)
class Evaluation:
    """The samples 0 to `count` in batches of `rows`.

    With `in_step` all members call the model equally often, as a sharded one needs.
    """

    spec: TrainSpec
    model: torch.nn.Module
    objective: Objective
    count: int
    rows: int
    in_step: bool = False


def evaluate_together(
    todo: Evaluation, group: Group, mark: Callable[[], None], waiting: Waiting
) -> dict[str, float]:
    """Mean loss (`eval_loss`) and metrics, equal on every member.

    `mark` is called after each batch, `waiting` entered while others are waited for. Raises GroupLostError.
    Draws nothing at random and leaves the model in the mode that it was in.
    """
    batches = split_microbatches(list(range(todo.count)), todo.rows)
    results = _evaluate_own(todo, batches, group, mark)
    with waiting():
        told = group.gather(sorted(set().union(*results.values())))
        names = sorted({name for found in told for name in found})
        table = torch.zeros(len(batches), len(names), dtype=torch.float64)
        for place, found in results.items():
            table[place] = torch.tensor([found[name] for name in names], dtype=torch.float64)
        group.sum(table)
    weight = todo.objective.weight(range(todo.count))
    return {f"eval_{name}": sum(table[:, place].tolist()) / weight for place, name in enumerate(names)}


def _evaluate_own(
    todo: Evaluation, batches: list[list[int]], group: Group, mark: Callable[[], None]
) -> dict[int, dict[str, float]]:
    """What this member's batches come to, by their place."""
    model = todo.model
    was_training = model.training
    model.eval()
    results: dict[int, dict[str, float]] = {}
    with torch.no_grad(), autocast(todo.spec):
        for place in range(group.rank, len(batches), group.size):
            loss, metrics = todo.objective.loss(model, batches[place])
            results[place] = {"loss": float(loss), **metrics}
            mark()
        if todo.in_step and len(results) * group.size < len(batches):
            todo.objective.loss(model, batches[0])
            mark()
    model.train(was_training)
    return results
