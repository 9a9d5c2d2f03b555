"""How much memory one worker of a run needs, from the spec and the size of its base: an estimate."""

from __future__ import annotations

from train_jobs.spec import Method, Optimizer, PeftSpec, QuantizationSpec, TrainSpec

_FLOAT, _HALF = 4, 2
# Bytes of optimizer state for each trained parameter; 8-bit Adam adds a scale a block to its two codes.
_STATE_BYTES = {Optimizer.ADAMW: 8.0, Optimizer.ADAMW_8BIT: 2.1, Optimizer.SGD: 0.0}
# Parameters a layer and width that transformers share: attention and a gated MLP have about 12 h^2,
# adapters on all their linear maps about 19 r h; the backward pass keeps about 24 h values a token.
_LAYER, _ADAPTER, _KEPT = 12, 19, 24
_WIDTH_PER_LAYER = 64
# Embeddings, head and norms are not quantized.
_UNQUANTIZED = 0.2


def memory_estimate(spec: TrainSpec, manifest_parameters: int, *, longest_row: int | None = None) -> int:
    """Bytes that a worker needs on top of its interpreter and libraries, to within a factor of two.

    What the C library keeps of freed memory comes on top, and may be as much again.
    `manifest_parameters` counts the base's parameters, `longest_row` is the most tokens that a row of
    the data has; without it, rows are taken to be as long as `max_length` lets them be.
    """
    trained = _trained(spec.peft, manifest_parameters)
    held = _base_bytes(spec.quantization, manifest_parameters)
    if spec.is_sharded:
        sharded = _sharded(spec, manifest_parameters, trained)
        return int(sharded + _activations(spec, manifest_parameters, longest_row))
    if spec.peft is not None:
        held += trained * _FLOAT
    elif spec.method is Method.DPO:
        # The frozen reference.
        held *= 2
    # A gradient, and the sum over slots that it is added to; a snapshot on its way to storage.
    state = trained * _STATE_BYTES[spec.optim]
    trained_bytes = 2 * trained * _FLOAT + state + (trained * _FLOAT + state)
    return int(held + trained_bytes + _activations(spec, manifest_parameters, longest_row))


def _sharded(spec: TrainSpec, parameters: int, trained: int) -> float:
    """A share of everything, with the layers that are put together at a time; at first, the whole base.

    Rank 0's, which makes whole snapshots.
    """
    base, state = parameters * _FLOAT, trained * _STATE_BYTES[spec.optim]
    adapter = trained * _FLOAT if spec.peft else 0
    share = (base + adapter + trained * _FLOAT + state) / spec.slots
    # The embeddings, one layer and the next; with their gradients where they are trained.
    together = min(1.0, _UNQUANTIZED + 2 / _shape(parameters)[1]) * base * (1 if spec.peft else 2)
    return max(base + adapter, share + together + trained * _FLOAT + state)


def _base_bytes(bits: QuantizationSpec | None, parameters: int) -> float:
    if bits is None:
        return parameters * _FLOAT
    # Four bits and a scale for each 64 values, or one byte.
    packed = 0.5 + _FLOAT / 64 if bits.load_in_4bit else 1.0
    return parameters * ((1 - _UNQUANTIZED) * packed + _UNQUANTIZED * _FLOAT)


def _trained(peft: PeftSpec | None, parameters: int) -> int:
    if peft is None:
        return parameters
    width, layers = _shape(parameters)
    return int(_ADAPTER * peft.r * width * layers)


def _activations(spec: TrainSpec, parameters: int, longest_row: int | None) -> float:
    width, layers = _shape(parameters)
    length = min(spec.max_length, longest_row or spec.max_length)
    # A preference pair is two rows.
    rows = spec.per_device_train_batch_size * (2 if spec.method is Method.DPO else 1)
    value = _HALF if spec.bf16 else _FLOAT
    kept = _KEPT + layers if spec.gradient_checkpointing else _KEPT * layers
    return rows * length * width * kept * value


def _shape(parameters: int) -> tuple[float, float]:
    """Width and number of layers that a transformer of this size usually has."""
    width = (parameters * _WIDTH_PER_LAYER / _LAYER) ** (1 / 3)
    return width, max(1.0, width / _WIDTH_PER_LAYER)
