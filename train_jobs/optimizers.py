"""Optimizers by Hugging Face Trainer's names, and their state as named tensors and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from train_jobs.spec import Optimizer, TrainSpec

Number = int | float


def make_optimizer(spec: TrainSpec, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that `spec.optim` names; norms and biases (one dimension) take no weight decay."""
    groups = _decay_groups(list(parameters), spec.weight_decay)
    if spec.optim is Optimizer.SGD:
        return torch.optim.SGD(groups, lr=spec.learning_rate)
    adam: dict[str, Any] = {
        "lr": spec.learning_rate,
        "betas": (spec.adam_beta1, spec.adam_beta2),
        "eps": spec.adam_epsilon,
    }
    if spec.optim is Optimizer.ADAMW_8BIT:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **adam)
    return torch.optim.AdamW(groups, **adam)


def fill_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the state that the optimizer would create in its first step; what is there stays."""
    for group_index, group in enumerate(optimizer.param_groups):
        for index, parameter in enumerate(group["params"]):
            if optimizer.state.get(parameter):
                continue
            if isinstance(optimizer, torch.optim.AdamW):
                optimizer.state[parameter] = {
                    "step": torch.tensor(0.0, dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
            elif hasattr(optimizer, "init_state"):
                optimizer.init_state(group, parameter, group_index, index)


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Every tensor of the state, live, as `<parameter's index>.<name>`, in one order; shared ones once."""
    fill_state(optimizer)
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, value in _entries(optimizer):
        if isinstance(value, torch.Tensor) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


def scalars(optimizer: torch.optim.Optimizer) -> dict[str, Number]:
    """Every number of the state that is no tensor, named like the tensors."""
    fill_state(optimizer)
    return {name: value for name, value in _entries(optimizer) if not isinstance(value, torch.Tensor)}


def set_scalars(optimizer: torch.optim.Optimizer, values: Mapping[str, Number]) -> None:
    """Take up what `scalars` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for name, value in values.items():
        index, key = name.split(".", 1)
        optimizer.state[parameters[int(index)]][key] = value


def _decay_groups(parameters: list[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    plain = [parameter for parameter in parameters if parameter.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    for index, parameter in enumerate(parameters):
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            yield f"{index}.{key}", value
