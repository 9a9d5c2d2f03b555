"""FSDP2: every worker holds a part of all weights, gradients and optimizer state.

PyTorch's `fully_shard` does the sharding. What its workers exchange goes through the formation of the
moment, so that it can be left like every other exchange, and the shards outlive the formation.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from train_jobs import optimizers
from train_jobs.formation.group import Group
from train_jobs.layout import Tensors, Waiting, fingerprint_of, layers_of, parameters_of, split
from train_jobs.pieces import Piece, collect, deal
from train_jobs.spec import TrainSpec
from train_jobs.tensor_file import TensorFile
from train_jobs.weights import as_saved


class Sharded:
    """The shard of `rank`; the model becomes one whose layers are whole only while they compute.

    Each microbatch's gradients are summed over the ranks, in their order, and added to those of the
    microbatches before it. A process holds one rank's shard at a time.
    """

    is_sharded = True

    def __init__(self, spec: TrainSpec, model: Any, rank: int, size: int) -> None:
        self.model, self.rank = model, rank
        self._exchange = _Exchange()
        _shard(model, _mesh(rank, size), self._exchange)
        sharded = {name: p for name, p in model.named_parameters() if p.requires_grad}
        local = {name: torch.nn.Parameter(p.to_local().detach()) for name, p in sharded.items()}
        # The optimizer sees plain tensors: this worker's rows.
        self.optimizer = optimizers.make_optimizer(spec, local.values())
        self._parameters = parameters_of(self.optimizer)
        by_id = {id(local[name]): p for name, p in sharded.items()}
        self._sharded = [by_id[id(parameter)] for parameter in self._parameters]
        self._weights = _weights_in_pieces(model, local, sharded)
        self._given: tuple[Tensors, Tensors] | None = None

    @property
    def waited_s(self) -> float:
        """What layers waited for each other's parts."""
        return self._exchange.waited_s

    def join(self, group: Group, waiting: Waiting) -> None:
        """An interrupted computation leaves parts of itself behind."""
        self._exchange.group, self._exchange.waiting = group, waiting
        if self.model._get_fsdp_state()._is_root is None:
            # Nothing was computed yet, and FSDP2 cannot reset what it has not set up.
            return
        self.model.reset_iter_state()
        for parameter in _fsdp_parameters(self.model):
            # It leaves the gradient of a whole layer that was not summed yet, and the next backward pass
            # would add to it.
            parameter._unsharded_param.grad = None

    def fingerprint(self, group: Group) -> str:
        """Of all ranks' rows."""
        told = group.gather(fingerprint_of(self._parameters))
        return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()

    def point_gradients(self, flat: torch.Tensor) -> None:
        """FSDP2 adds to what it finds, so that sums land in `flat`; the optimizer finds it there."""
        parts = split(flat, self._parameters)
        for parameter, sharded, part in zip(self._parameters, self._sharded, parts, strict=True):
            parameter.grad = part
            sharded.grad = DTensor.from_local(
                part,
                sharded.device_mesh,
                sharded.placements,
                run_check=False,
                shape=sharded.shape,
                stride=sharded.stride(),
            )

    def sum_slots(self, rows: Mapping[int, torch.Tensor], slots: int, group: Group) -> torch.Tensor:
        """They were summed while they were computed."""
        (summed,) = rows.values()
        return summed

    def clip(self, max_norm: float, group: Group) -> float:
        """The norm is of all shards."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        squares = torch.zeros(group.size, dtype=torch.float64)
        squares[group.rank] = sum(float(gradient.double().square().sum()) for gradient in gradients)
        norm = torch.tensor(sum(group.sum(squares).tolist()), dtype=torch.float64).sqrt().float()
        torch.nn.utils.clip_grads_with_norm_(self._parameters, max_norm, norm)
        return float(norm)

    def weights(self) -> Tensors:
        """Without content."""
        return _described(self._weights)

    def state(self) -> Tensors:
        """Without content."""
        return _described(self._state())

    def copy_into(self, weights: TensorFile, state: TensorFile) -> None:
        """Bundle by bundle, straight into the files."""
        self._collect(weights.views, state.views)

    def hand_over(self) -> None:
        """Bundle by bundle."""
        self._collect(None, None)

    def take(self, weights: Tensors, state: Tensors) -> None:
        """They are kept whole until they are dealt out."""
        self._given = weights, state

    def spread(self, group: Group, source: int) -> None:
        """Every worker is sent its rows."""
        weights, state = self._given or (None, None)
        self._given = None
        with torch.no_grad():
            deal(group, self._weights, weights, source)
            deal(group, self._state(), state, source)

    def _collect(self, weights: Tensors | None, state: Tensors | None) -> None:
        def act(group: Group) -> None:
            collect(group, self._weights, weights)
            collect(group, self._state(), state)

        self._exchange(act)

    def _state(self) -> dict[str, Piece]:
        """Of the shapes of the parameters; what has no dimensions counts steps, alike on every worker."""
        found = {}
        for name, tensor in optimizers.state_tensors(self.optimizer).items():
            whole = self._sharded[int(name.split(".", 1)[0])].shape
            found[name] = Piece(tensor, whole if tensor.dim() else tensor.shape)
        return found


class _Exchange:
    """The way to the other workers, whichever formation they are in."""

    group: Group
    waiting: Waiting

    def __init__(self) -> None:
        self.waited_s = 0.0

    def __call__(self, act: Callable[[Group], None]) -> None:
        """Exchange, and let it be known who waits: the one that all wait for may hang."""
        began = time.monotonic()
        with self.waiting():
            act(self.group)
        self.waited_s += time.monotonic() - began


class _Room:
    """Where FSDP2 has an exchange's tensors."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Room for one of them."""
        return torch.empty(*size, dtype=dtype, device=device)


class _AllGather(_Room):
    """Puts a layer together."""

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, async_op: bool = False
    ) -> None:
        """`group` is the mesh's, which cannot exchange anything."""
        self._exchange(lambda formed: formed.join_parts(output_tensor, input_tensor))


class _ReduceScatter(_Room):
    """Sums a layer's gradients."""

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """`op` is a sum."""
        self._exchange(lambda formed: formed.sum_parts(output_tensor, input_tensor))


def _mesh(rank: int, size: int) -> DeviceMesh:
    """A place among `size` ranks, without a way to any of them: FSDP2 asks it for numbers alone."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=rank, world_size=size)
    return init_device_mesh("cpu", (size,))


def _shard(model: Any, mesh: DeviceMesh, exchange: _Exchange) -> None:
    """Layer by layer, and what is left together."""
    for module in (*layers_of(model), model):
        fully_shard(module, mesh=mesh)
    for module in _fsdp_modules(model):
        module.set_custom_all_gather(_AllGather(exchange))
        module.set_custom_reduce_scatter(_ReduceScatter(exchange))
        # A step's loss is divided by its weight already.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def _fsdp_modules(model: torch.nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _fsdp_parameters(model: torch.nn.Module) -> list[Any]:
    """FSDP2's own records of those parameters that were whole before."""
    states = [module._get_fsdp_state() for module in _fsdp_modules(model)]
    groups = [group for state in states for group in state._fsdp_param_groups]
    return [p for group in groups for p in group.fsdp_params if hasattr(p, "_unsharded_param")]


def _weights_in_pieces(
    model: Any, local: Mapping[str, torch.Tensor], sharded: Mapping[str, torch.Tensor]
) -> dict[str, Piece]:
    own = {name: parameter.detach() for name, parameter in local.items()}
    shapes = {id(tensor): sharded[name].shape for name, tensor in own.items()}
    return {name: Piece(tensor, shapes[id(tensor)]) for name, tensor in as_saved(model, own).items()}


def _described(pieces: Mapping[str, Piece]) -> dict[str, torch.Tensor]:
    held = {name: (piece.whole, piece.local.dtype) for name, piece in pieces.items()}
    return {name: torch.empty(shape, dtype=kind, device="meta") for name, (shape, kind) in held.items()}
