"""How much memory one worker of a run needs, from the spec, its base and its data: an estimate."""

from __future__ import annotations

from dataclasses import dataclass

from train_jobs.base_config import BaseConfig
from train_jobs.encoding import Longest
from train_jobs.spec import FaultTolerance, Method, Optimizer, PeftSpec, QuantizationSpec, TrainSpec

_FLOAT, _HALF = 4, 2
# Bytes of optimizer state for each trained parameter; 8-bit Adam adds a scale a block to its two codes.
_STATE_BYTES = {Optimizer.ADAMW: 8.0, Optimizer.ADAMW_8BIT: 2.1, Optimizer.SGD: 0.0}
# Parameters a layer and width that transformers share: attention and a gated MLP have about 12 h^2,
# adapters on all their linear maps about 19 r h; the backward pass keeps about 24 h values a token.
_LAYER, _ADAPTER, _KEPT = 12, 19, 24
_WIDTH_PER_LAYER = 64
_USUAL_VOCABULARY = 50_000
# What a logit costs: its probability, the gradient of that and its own; two of them where none is taken.
_LOGIT, _LOGIT_EVALUATED = 12, 8
# Embeddings, head and norms are not quantized.
_UNQUANTIZED = 0.2
# One is written while the next is taken.
_SNAPSHOTS = 2


@dataclass(frozen=True)
class _Shape:
    """Numbers of a transformer; `width` and `layers` are fractions where they follow from its size."""

    width: float
    layers: float
    vocabulary: int


def memory_estimate(
    spec: TrainSpec, parameters: int, config: BaseConfig | None = None, longest: Longest | None = None
) -> int:
    """Bytes that a worker needs on top of its interpreter and libraries, to within a factor of two.

    What the C library keeps of freed memory comes on top, and may be as much again. `parameters` counts
    those of the base, whose shape follows from it where `config` does not say; `longest` is what its data
    have, and without it all rows are as long as `max_length` lets them be.
    """
    shape = _shape(parameters, config or BaseConfig())
    trained = _trained(spec.peft, parameters, shape)
    computing = _activations(spec, shape, longest or Longest(tokens=spec.max_length, answers=spec.max_length))
    if spec.is_sharded:
        return int(_sharded(spec, parameters, trained, shape) + computing)
    held = _base_bytes(spec.quantization, parameters)
    if spec.peft is not None:
        held += trained * _FLOAT
    elif spec.method is Method.DPO:
        # The frozen reference.
        held *= 2
    state = trained * _STATE_BYTES[spec.optim]
    # Under `restart` survivors set what they have aside while they prove a checkpoint.
    copies = _SNAPSHOTS + (spec.fault_tolerance is FaultTolerance.RESTART)
    copied = trained * _FLOAT + state
    return int(held + state + copies * copied + _at_once(spec, trained * _FLOAT, copied, computing))


def _at_once(spec: TrainSpec, gradient: float, copied: float, computing: float) -> float:
    """The most of what comes and goes: computing, adding up gradients, reading a checkpoint.

    The fewest workers that go on compute the most slots, each with a gradient of its own.
    """
    slots = -(-spec.slots // spec.min_live)
    adding = max(_added(spec.slots, live) for live in range(spec.min_live, spec.slots + 1))
    # As bytes, and as tensors.
    reading = 2 * copied
    return max(slots * gradient + computing, adding * gradient, reading)


def _added(slots: int, live: int) -> float:
    """How many gradients a worker holds while those of all slots are added."""
    own = -(-slots // live)
    if live == 1:
        return own + 1
    # Its own and those sent, the parts received and added, and the sum as it comes and as it is used.
    return 2 * own + (slots + 1) / live + 2


def _sharded(spec: TrainSpec, parameters: int, trained: int, shape: _Shape) -> float:
    """A share of everything, with the layers that are put together at a time; at first, the whole base.

    Rank 0's, which makes whole snapshots.
    """
    base, state = parameters * _FLOAT, trained * _STATE_BYTES[spec.optim]
    adapter = trained * _FLOAT if spec.peft else 0
    share = (base + adapter + trained * _FLOAT + state) / spec.slots
    # The embeddings, one layer and the next; with their gradients where they are trained.
    together = min(1.0, _UNQUANTIZED + 2 / shape.layers) * base * (1 if spec.peft else 2)
    return max(base + adapter, share + together + _SNAPSHOTS * (trained * _FLOAT + state))


def _base_bytes(bits: QuantizationSpec | None, parameters: int) -> float:
    if bits is None:
        return parameters * _FLOAT
    # Four bits and a scale for each 64 values, or one byte.
    packed = 0.5 + _FLOAT / 64 if bits.load_in_4bit else 1.0
    return parameters * ((1 - _UNQUANTIZED) * packed + _UNQUANTIZED * _FLOAT)


def _trained(peft: PeftSpec | None, parameters: int, shape: _Shape) -> int:
    return parameters if peft is None else int(_ADAPTER * peft.r * shape.width * shape.layers)


def _activations(spec: TrainSpec, shape: _Shape, longest: Longest) -> float:
    """What a microbatch keeps for its gradients, or what one of an evaluation takes, which keeps none."""
    value = _HALF if spec.bf16 else _FLOAT
    layer = _KEPT * shape.width * value
    # A preference pair is two rows.
    sides = 2 if spec.method is Method.DPO else 1
    tokens, logits = _sizes(spec.per_device_train_batch_size * sides, spec, shape, longest)
    if spec.gradient_checkpointing:
        # The input of each layer, and the whole of one, which is computed again once the logits are gone.
        training = tokens * shape.width * shape.layers * value + max(tokens * layer, logits * _LOGIT)
    else:
        training = tokens * layer * shape.layers + logits * _LOGIT
    if spec.eval_steps is None:
        return training
    tokens, logits = _sizes(spec.per_device_eval_batch_size * sides, spec, shape, longest)
    return max(training, tokens * layer + logits * _LOGIT_EVALUATED)


def _sizes(rows: int, spec: TrainSpec, shape: _Shape, longest: Longest) -> tuple[int, int]:
    """Tokens and logits of a microbatch; logits are computed at places where some row has an answer."""
    length = min(spec.max_length, longest.tokens)
    return rows * length, rows * min(length, rows * longest.answers) * shape.vocabulary


def _shape(parameters: int, config: BaseConfig) -> _Shape:
    """What the configuration says, else what a transformer of this size usually has."""
    usual = (parameters * _WIDTH_PER_LAYER / _LAYER) ** (1 / 3)
    return _Shape(
        width=config.width or usual,
        layers=config.layers or max(1.0, usual / _WIDTH_PER_LAYER),
        vocabulary=config.vocabulary or _USUAL_VOCABULARY,
    )
