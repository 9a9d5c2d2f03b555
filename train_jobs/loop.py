"""One training step, the same in every bit whoever computes which part of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from train_jobs import sampling
from train_jobs.formation.group import Group, GroupLostError
from train_jobs.formation.messages import Phase
from train_jobs.layout import Layout, layers_of, parameters_of
from train_jobs.model import autocast
from train_jobs.objectives import Objective
from train_jobs.schedule import learning_rate
from train_jobs.spec import TrainSpec

Mark = Callable[[Phase, int], None]


@dataclass(frozen=True)
class Wishes:
    """What one member would like to happen after the step; any member's wish is everybody's.

    `committed` is the newest checkpoint's step that this member knows of.
    """

    regroup: bool = False
    commit: bool = False
    committed: int = 0


@dataclass(frozen=True)
class StepResult:
    """A step that every member has taken.

    `loss` is the mean over the step's weight (answer tokens, or pairs); `samples` are the dataset
    indices that were trained, in batch order, as the members that trained them say; `fingerprint` is of
    the weights after it; `applied` is False when the loss was bad and the weights were left as they are.
    """

    step: int
    samples: list[int]
    loss: float
    grad_norm: float
    learning_rate: float
    weight: int
    tokens: int
    draws: str
    fingerprint: str
    metrics: dict[str, float]
    applied: bool
    wishes: Wishes
    compute_s: float


@dataclass
class _Slot:
    """What a slot of the step in hand came to: gradients of shape (length,), summed loss and metrics."""

    gradients: torch.Tensor
    loss: float
    metrics: dict[str, float]
    samples: list[int] = field(default_factory=list)


class Loop:
    """Model, optimizer and objective of one member; `layout` says how it holds the first two."""

    def __init__(self, spec: TrainSpec, layout: Layout, objective: Objective, dataset_size: int) -> None:
        self.spec, self.layout, self.objective = spec, layout, objective
        self.model, self.optimizer = layout.model, layout.optimizer
        self.microbatch_divisor = 1
        # While it is True, an exception leaves weights that belong to no step.
        self.is_updating = False
        self._dataset_size = dataset_size
        parameters = parameters_of(layout.optimizer)
        self._length, self._device = sum(p.numel() for p in parameters), parameters[0].device
        self._buffers: list[torch.Tensor] = []
        # Slots of an unfinished step: valid for as long as the weights stay as they are.
        self._done: dict[int, _Slot] = {}
        self._done_step = 0

    def leave_when(self, is_over: Callable[[], bool]) -> None:
        """Leave a computation in its middle, with GroupLostError, once it is over with the formation.

        For a run that goes back to its last commit: what is being computed is worth nothing then.
        """

        def check(_gradient: torch.Tensor | None = None) -> None:
            if is_over():
                raise GroupLostError("the coordinator dissolved the formation")

        def watch(_module: Any, _given: Any, output: Any) -> None:
            check()
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(check)

        for layer in layers_of(self.model):
            layer.register_forward_hook(watch)

    def forget(self) -> None:
        """The weights were replaced: what was computed with the former ones is worth nothing."""
        self._buffers += [part.gradients for part in self._done.values()]
        self._done.clear()

    def run_step(
        self,
        step: int,
        group: Group,
        wishes: Wishes,
        mark: Mark,
        *,
        ceiling: float = math.inf,
    ) -> StepResult:
        """Train `step`, counted from 1; the weights stay as they are where its loss is above `ceiling` or
        not finite.

        Raises GroupLostError, and whatever the computation raises; the weights are unchanged then, unless
        `is_updating`.
        """
        self.is_updating = False
        samples = sampling.step_samples(
            self.spec.seed, step, dataset_size=self._dataset_size, batch_size=self.spec.global_batch_size
        )
        weight = self.objective.weight(samples)
        began, waited = time.monotonic(), self.layout.waited_s
        computed = self._compute(step, samples, weight, group, mark)
        waited = self.layout.waited_s - waited
        compute_s = (time.monotonic() - began - waited) / max(1, computed)
        mark(Phase.EXCHANGING, step)
        losses, metrics, trained, agreed = self._exchange(group, wishes)
        rows = {slot: part.gradients for slot, part in self._done.items()}
        self.layout.point_gradients(self.layout.sum_slots(rows, self.spec.slots, group))
        norm = self.layout.clip(self.spec.max_grad_norm, group)
        mark(Phase.COMPUTING, step)
        loss, rate = sum(losses) / weight, learning_rate(self.spec, step)
        applied = math.isfinite(loss) and math.isfinite(norm) and loss <= ceiling
        if applied:
            self.is_updating = True
            self._apply(rate)
        fingerprint = self.layout.fingerprint(group)
        self.is_updating = False
        self.forget()
        return StepResult(
            step=step,
            samples=trained,
            loss=loss,
            grad_norm=norm,
            learning_rate=rate,
            weight=weight,
            tokens=self.objective.tokens(samples),
            draws=self.draws(step, self.microbatch_divisor),
            fingerprint=fingerprint,
            metrics={name: value / weight for name, value in metrics.items()},
            applied=applied,
            wishes=agreed,
            compute_s=compute_s,
        )

    def _compute(self, step: int, samples: Sequence[int], weight: int, group: Group, mark: Mark) -> int:
        """Compute this member's slots that are not there yet; returns how many those were."""
        own = sampling.slots_of(group.rank, group.size, self.spec.slots)
        if self._done_step != step:
            self.forget()
            self._done_step = step
        for slot in [slot for slot in self._done if slot not in own]:
            self._buffers.append(self._done.pop(slot).gradients)
        missing = [slot for slot in own if slot not in self._done]
        self.model.train()
        for slot in missing:
            self._done[slot] = self._compute_slot(step, samples, slot, weight, mark)
        return len(missing)

    def _compute_slot(self, step: int, samples: Sequence[int], slot: int, weight: int, mark: Mark) -> _Slot:
        gradients = self._buffers.pop().zero_() if self._buffers else self._new_buffer()
        self.layout.point_gradients(gradients)
        rows = self.spec.per_device_train_batch_size
        result = _Slot(gradients, 0.0, {})
        for place, batch in enumerate(sampling.slot_microbatches(samples, slot, self.spec.slots, rows)):
            for part, few in enumerate(self._cut(batch)):
                mark(Phase.COMPUTING, step)
                # Dealt out in turn: a microbatch's place in the step does not depend on who has it.
                torch.manual_seed(
                    sampling.draw_seed(self.spec.seed, step, slot + place * self.spec.slots) + part
                )
                with autocast(self.spec):
                    loss, metrics = self.objective.loss(self.model, few)
                (loss / weight).backward()
                result.loss += loss.item()
                for name, value in metrics.items():
                    result.metrics[name] = result.metrics.get(name, 0.0) + value
                result.samples += few
        return result

    def _cut(self, batch: Sequence[int]) -> list[list[int]]:
        return sampling.split_microbatches(batch, _part_rows(len(batch), self.microbatch_divisor))

    def _new_buffer(self) -> torch.Tensor:
        return torch.zeros(self._length, dtype=torch.float32, device=self._device)

    def _exchange(
        self, group: Group, wishes: Wishes
    ) -> tuple[list[float], dict[str, float], list[int], Wishes]:
        """Losses by slot, summed metrics, the sample ids as trained, and what anybody wishes."""
        slots, batch = self.spec.slots, self.spec.global_batch_size
        names = sorted(next(iter(self._done.values())).metrics)
        cells = torch.zeros(slots * (1 + len(names)) + batch + 3, dtype=torch.float64)
        table = cells[: slots * (1 + len(names))].view(slots, -1)
        ids = cells[table.numel() : table.numel() + batch]
        for slot, part in self._done.items():
            found = [part.loss, *(part.metrics[name] for name in names)]
            table[slot] = torch.tensor(found, dtype=torch.float64)
            ids[self._places(slot)] = torch.tensor(part.samples, dtype=torch.float64)
        # The newest commit is known to one member alone, rank 0, so that the sum is its word.
        cells[-3:] = torch.tensor([wishes.regroup, wishes.commit, wishes.committed if group.rank == 0 else 0])
        group.sum(cells)
        agreed = Wishes(bool(cells[-3] > 0), bool(cells[-2] > 0), int(cells[-1]))
        totals = {name: sum(table[:, 1 + place].tolist()) for place, name in enumerate(names)}
        return table[:, 0].tolist(), totals, [int(value) for value in ids.tolist()], agreed

    def _places(self, slot: int) -> list[int]:
        """Where a slot's samples stand in the step's batch."""
        rows, order = self.spec.per_device_train_batch_size, range(self.spec.global_batch_size)
        return [
            place for part in sampling.slot_microbatches(order, slot, self.spec.slots, rows) for place in part
        ]

    def draws(self, step: int, divisor: int) -> str:
        """Digest of the seeds of all random draws of a step, its microbatches computed in `divisor` parts."""
        rows = self.spec.per_device_train_batch_size
        seeds = [
            sampling.draw_seed(self.spec.seed, step, index) + part
            for index in range(self.spec.microbatches)
            for part in range(-(-rows // _part_rows(rows, divisor)))
        ]
        return hashlib.blake2b(repr(seeds).encode(), digest_size=8).hexdigest()

    def _apply(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()


def _part_rows(rows: int, divisor: int) -> int:
    return max(1, -(-rows // divisor))
