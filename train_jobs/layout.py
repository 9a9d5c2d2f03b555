"""How a worker holds what is trained: all of it, as here, or a part (`train_jobs.sharding`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from train_jobs import optimizers
from train_jobs.formation.group import Group
from train_jobs.tensor_file import TensorFile
from train_jobs.weights import live_weights

Tensors = Mapping[str, torch.Tensor]
# Entered while others are waited for.
Waiting = Callable[[], AbstractContextManager[None]]


def fingerprint_of(parameters: Iterable[torch.Tensor]) -> str:
    """A digest of each tensor's sum: one reading of them, and nothing is copied."""
    sums = [torch.sum(parameter.detach(), dtype=torch.float64).item() for parameter in parameters]
    return hashlib.blake2b(repr(sums).encode(), digest_size=8).hexdigest()


class Layout(Protocol):
    """Model and optimizer of one worker, and what differs between ways of holding them.

    `waited_s` counts the seconds that computing waited for other workers. Where `is_sharded`, all of them
    call the model equally often.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    is_sharded: bool
    waited_s: float

    def join(self, group: Group, waiting: Waiting) -> None:
        """Compute with these workers from now on; what was begun with others is given up."""
        ...

    def point_gradients(self, flat: torch.Tensor) -> None:
        """Let every gradient be its part of `flat`, of shape (length,): one number a parameter held here."""
        ...

    def sum_slots(self, rows: Mapping[int, torch.Tensor], slots: int, group: Group) -> torch.Tensor:
        """The sum of all slots' gradients, of shape (length,), from this worker's `rows` of them."""
        ...

    def clip(self, max_norm: float, group: Group) -> float:
        """Scale the gradients down to `max_norm`; returns the norm that they had, alike on every worker."""
        ...

    def fingerprint(self, group: Group) -> str:
        """A digest that changes with the trained weights, alike on every worker."""
        ...

    def weights(self) -> Tensors:
        """What is trained, by the names of the file: of whole shapes, though maybe without content."""
        ...

    def state(self) -> Tensors:
        """The same of the optimizer's state."""
        ...

    def copy_into(self, weights: TensorFile, state: TensorFile) -> None:
        """As rank 0, while the others `hand_over`: fill files with weights and optimizer state."""
        ...

    def hand_over(self) -> None:
        """As another rank: give rank 0 what it copies."""
        ...

    def take(self, weights: Tensors, state: Tensors) -> None:
        """Go on with these; others get them by `spread`, which has to follow where it is sharded."""
        ...

    def spread(self, group: Group, source: int) -> None:
        """Everybody takes over weights and optimizer state of the rank `source`."""
        ...


class Whole:
    """All of the model on every worker; gradients of the slots meet once each has been computed."""

    is_sharded = False
    waited_s = 0.0

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self._parameters = parameters_of(optimizer)

    def join(self, group: Group, waiting: Waiting) -> None:
        """Nothing is shared while a step is computed."""

    def point_gradients(self, flat: torch.Tensor) -> None:
        """Nothing is copied."""
        for parameter, part in zip(self._parameters, split(flat, self._parameters), strict=True):
            parameter.grad = part

    def sum_slots(self, rows: Mapping[int, torch.Tensor], slots: int, group: Group) -> torch.Tensor:
        """Added in slot order, whoever computed which."""
        return group.sum_slots(rows, slots)

    def clip(self, max_norm: float, group: Group) -> float:
        """Everybody has all gradients."""
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, max_norm))

    def fingerprint(self, group: Group) -> str:
        """Everybody has all weights."""
        return fingerprint_of(self._parameters)

    def weights(self) -> Tensors:
        """The live weights."""
        return live_weights(self.model)

    def state(self) -> Tensors:
        """The live state."""
        return optimizers.state_tensors(self.optimizer)

    def copy_into(self, weights: TensorFile, state: TensorFile) -> None:
        """From what this worker has."""
        weights.fill(self.weights())
        state.fill(self.state())

    def hand_over(self) -> None:
        """Rank 0 has everything itself."""

    def take(self, weights: Tensors, state: Tensors) -> None:
        """In place."""
        with torch.no_grad():
            for live, given in ((self.weights(), weights), (self.state(), state)):
                for name, tensor in live.items():
                    tensor.copy_(given[name])

    def spread(self, group: Group, source: int) -> None:
        """Tensor by tensor, each received beside its place.

        An exchange that was left may still receive long after, when this worker has gone on.
        """
        for tensor in (*self.weights().values(), *self.state().values()):
            given = tensor if group.rank == source else torch.empty_like(tensor)
            group.broadcast(given, source)
            if given is not tensor:
                with torch.no_grad():
                    tensor.copy_(given)


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Everything that an optimizer trains, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def split(flat: torch.Tensor, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Views of `flat` in the shapes of the parameters, which together have its length."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's longest list of modules, which is its layers."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))
