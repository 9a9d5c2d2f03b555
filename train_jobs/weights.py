"""The weights that are trained: their names, as PEFT or transformers save them, and the files they go to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from cluster.errors import ConflictError

WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_FILES = (WEIGHTS, ADAPTER_CONFIG)
MODEL_WEIGHTS, MODEL_CONFIG = "model.safetensors", "config.json"
MODEL_FILES = (MODEL_WEIGHTS, MODEL_CONFIG)


def live_weights(model: Any) -> dict[str, torch.Tensor]:
    """What is trained, live, under the names that PEFT or transformers save it by; tied weights once."""
    return as_saved(model, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


def as_saved(model: Any, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by the names of the model's parameters, under the names that they are saved by."""
    if not _is_adapter(model):
        return dict(own)
    from peft import get_peft_model_state_dict

    # Given the tensors it does not collect those of the base; left to decide on embeddings it asks the hub.
    return dict(get_peft_model_state_dict(model, state_dict=own, save_embedding_layers=False))


def weights_file(model: Any) -> str:
    """Name of the file that the trained weights go to."""
    return WEIGHTS if _is_adapter(model) else MODEL_WEIGHTS


def config_file(model: Any) -> tuple[str, bytes]:
    """Name and content of the file that says how to load the weights."""
    if not _is_adapter(model):
        return MODEL_CONFIG, model.config.to_json_string().encode()
    config = {**model.peft_config["default"].to_dict(), "inference_mode": True}
    return ADAPTER_CONFIG, json.dumps(config, indent=2, default=_plain).encode()


def stored_weights(files: Mapping[str, bytes], model: Any) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint's files, for `model`.

    Raises ConflictError `train.adapter_mismatch` for an adapter of another base, and when what was
    trained is an adapter there and a full model here, or the reverse.
    """
    name = weights_file(model)
    if name not in files:
        raise ConflictError(
            f"The checkpoint has no {name}; it holds {', '.join(sorted(files))}.",
            code="train.adapter_mismatch",
            hint="Resume with the `peft` that the run began with, or give another `run` name.",
        )
    if _is_adapter(model):
        stored = json.loads(files[ADAPTER_CONFIG]).get("base_model_name_or_path")
        own = model.peft_config["default"].base_model_name_or_path
        if stored != own:
            raise ConflictError(
                f"The checkpoint's adapter belongs to `{stored}`, and this run trains `{own}`.",
                code="train.adapter_mismatch",
                hint=f"Set `model: {stored}` to go on with it, or give another `run` name.",
            )
    return load_tensors(files[name])


def require_fit(
    stored: Mapping[str, torch.Tensor], live: Mapping[str, torch.Tensor], *, code: str, what: str
) -> None:
    """Raise ConflictError naming the first tensor whose kind or shape differs, or that one side lacks."""
    for name in [*live, *sorted(stored.keys() - live.keys())]:
        had, has = _described(stored.get(name)), _described(live.get(name))
        if had != has:
            raise ConflictError(
                f"The checkpoint's {what} does not fit: `{name}` is {had} there and {has} here.",
                code=code,
                hint="Resume with the spec that the run began with, or give another `run` name.",
            )


def _is_adapter(model: Any) -> bool:
    return hasattr(model, "peft_config")


def _described(tensor: torch.Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
