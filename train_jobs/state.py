"""What a checkpoint holds: adapter weights, optimizer, schedule, data position, random states."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from cluster.config import StrictModel
from cluster.errors import ConflictError

WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (WEIGHTS, ADAPTER_CONFIG)
_OPTIMIZER, _RNG, _POSITION = "optimizer.pt", "rng_state.pt", "trainer_state.json"


class Position(StrictModel):
    """How far a run is. The next sample follows from these alone."""

    step: int
    samples_seen: int
    seed: int
    learning_rate: float
    data_fingerprint: str
    spec_sha256: str


def capture(
    model: Any, optimizer: torch.optim.Optimizer, position: Position, rng: list[Any]
) -> dict[str, bytes]:
    """The files of a checkpoint; `rng` has one entry a rank."""
    from peft import get_peft_model_state_dict

    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    config = model.peft_config["default"].to_dict()
    return {
        WEIGHTS: save_tensors(weights, metadata={"format": "pt"}),
        ADAPTER_CONFIG: json.dumps({**config, "inference_mode": True}, indent=2, default=_plain).encode(),
        _OPTIMIZER: _dump(optimizer.state_dict()),
        _RNG: _dump(rng),
        _POSITION: (position.model_dump_json(indent=2) + "\n").encode(),
    }


def restore(
    files: Mapping[str, bytes],
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    data_fingerprint: str,
    rank: int,
) -> Position:
    """Put a checkpoint's state into a model and an optimizer.

    Raises ConflictError when the data are no longer those that the run began with.
    """
    from peft import set_peft_model_state_dict

    position = Position.model_validate_json(files[_POSITION])
    if position.data_fingerprint != data_fingerprint:
        raise ConflictError(
            f"The training data changed since step {position.step}: sha256 {data_fingerprint[:12]}…, "
            f"the checkpoint has {position.data_fingerprint[:12]}….",
            code="train.data_changed",
            hint="Bring the former file back, or train the new data under another `run` name.",
        )
    set_peft_model_state_dict(model, load_tensors(files[WEIGHTS]))
    optimizer.load_state_dict(_load(files[_OPTIMIZER]))
    states = _load(files[_RNG])
    if rank < len(states):
        set_rng(states[rank])
    return position


def rng() -> dict[str, Any]:
    """The random state of this process: torch's, Python's and numpy's."""
    name, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), place, has_gauss, gauss),
    }


def set_rng(state: Mapping[str, Any]) -> None:
    """Take up a random state that `rng` gave."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, gauss))


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
