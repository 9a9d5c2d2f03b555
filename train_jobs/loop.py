"""One training step, exactly the same whoever computes which part of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from cluster.errors import LinnetError
from train_jobs import sampling
from train_jobs.dataset import PackedDataset
from train_jobs.group import Group
from train_jobs.model import collate, summed_loss, trainable
from train_jobs.schedule import learning_rate
from train_jobs.spec import TrainSpec


@dataclass(frozen=True)
class StepResult:
    """`loss` is the mean over all answer tokens of the step; `tokens` counts all tokens of all ranks."""

    loss: float
    learning_rate: float
    tokens: int
    stop: bool


class Loop:
    """Model, optimizer and data of one rank."""

    def __init__(self, spec: TrainSpec, model: Any, dataset: PackedDataset, group: Group) -> None:
        self.spec, self.model, self.dataset, self.group = spec, model, dataset, group
        self.parameters = trainable(model)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay
        )
        self._pad_id = _pad_id(model)

    def run_step(self, step: int, *, stop: bool = False) -> StepResult:
        """Train `step`, counted from 1; `stop` on any rank reaches all as the result's `stop`.

        The loss is normalised over the answer tokens of the whole step, so it does not depend on how
        rows fall onto ranks. Raises LinnetError, before the weights change, when it is not finite.
        """
        samples = sampling.step_samples(
            self.spec.seed, step, dataset_size=len(self.dataset), batch_size=self.spec.global_batch_size
        )
        answers = self.dataset.answer_tokens(samples)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        own = self._backward(step, samples, answers)
        total, stops = self.group.sum(torch.tensor([own, float(stop)], dtype=torch.float64)).tolist()
        self.group.sum_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.spec.max_grad_norm)
        self._require_finite(step, total, float(norm), samples)
        rate = self._apply(step)
        return StepResult(total / answers, rate, self.dataset.lengths(samples), stops > 0)

    def _backward(self, step: int, samples: list[int], answers: int) -> float:
        parts = sampling.split_microbatches(samples, self.spec.per_device_train_batch_size)
        total = 0.0
        for index in sampling.microbatches_of(self.group.rank, self.group.size, len(parts)):
            torch.manual_seed(sampling.draw_seed(self.spec.seed, step, index))
            loss = summed_loss(self.model, collate(self.dataset, parts[index], self._pad_id))
            (loss / answers).backward()
            total += loss.item()
        return total

    def _apply(self, step: int) -> float:
        rate = learning_rate(self.spec, step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.step()
        return rate

    def _require_finite(self, step: int, loss: float, norm: float, samples: list[int]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        names = ", ".join(self.dataset.ids[index] for index in samples)
        raise LinnetError(
            f"Step {step} has the loss {loss} and the gradient norm {norm}; its samples are {names}.",
            code="train.not_finite",
            hint="Lower learning_rate, or look at these samples with `linnet data inspect`.",
        )


def _pad_id(model: Any) -> int:
    """What fills up a row; it is masked, so any id that the vocabulary has will do."""
    configured = model.config.pad_token_id
    return configured if isinstance(configured, int) and configured >= 0 else 0
