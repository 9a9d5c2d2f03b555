"""Making full versions: an adapter folded into its base's weights, or the weights of full training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ConfigError, IntegrityError
from train_jobs.quiet import no_progress_bars

if TYPE_CHECKING:
    import torch

_STORABLE = ("bfloat16", "float16", "float32", "float64")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "manifest.json")


def merge(base_dir: Path, adapter_dir: Path, target: Path, *, base: str, dtype: str) -> None:
    """Write base plus adapter to the new directory `target`, in `dtype` (`bfloat16`, as the base has it).

    The sum is taken in float32 and rounded once, over the base as stored: an adapter trained on a
    quantized base is merged into the unquantized one. Configuration, tokenizer and chat template are
    the base's own files, byte for byte. Raises ConfigError for a dtype that cannot hold them, and
    IntegrityError for an adapter of another base than `base` (`smollm2:v1`).
    """
    from peft import PeftModel

    stored = _stored_type(dtype)
    _require_base(adapter_dir, base)
    with no_progress_bars():
        adapted = PeftModel.from_pretrained(_load(base_dir), adapter_dir, torch_device="cpu")
        _write(adapted.merge_and_unload(), base_dir, target, stored)


def fill(base_dir: Path, weights: Path, target: Path, *, dtype: str) -> None:
    """Write the base with all its weights replaced by those of the safetensors file `weights`.

    Each is rounded once, from float32 to `dtype`; everything else is the base's own, as with `merge`.
    Raises ConfigError for a dtype that cannot hold them, and IntegrityError for a file whose
    tensors are not the base's.
    """
    import torch
    from safetensors.torch import load_file

    stored = _stored_type(dtype)
    trained = load_file(weights)
    with no_progress_bars(), torch.no_grad():
        model = _load(base_dir)
        own = dict(model.named_parameters())
        differing = sorted(own.keys() ^ trained.keys())
        if differing:
            raise IntegrityError(
                f"{weights.name} does not fit the base in {base_dir}: `{differing[0]}` is in one only.",
                code="train.adapter_mismatch",
                hint="Restore the base that the run was trained from (`linnet models verify`).",
            )
        for name, parameter in own.items():
            parameter.copy_(trained[name])
        _write(model, base_dir, target, stored)


def require_storable(dtype: str) -> None:
    """Raise ConfigError `train.merge_dtype` for one that trained weights cannot be rounded to."""
    if dtype not in _STORABLE:
        raise ConfigError(
            f"The base stores its weights as {dtype}, in which trained weights cannot be stored.",
            code="train.merge_dtype",
            hint="Train from a version in bfloat16, float16 or float32, or publish an adapter alone "
            "(`publish.merge=false`, no `publish.version`).",
        )


def _stored_type(dtype: str) -> torch.dtype:
    import torch

    require_storable(dtype)
    found: torch.dtype = getattr(torch, dtype)
    return found


def _require_base(adapter_dir: Path, base: str) -> None:
    config = adapter_dir / "adapter_config.json"
    stated = json.loads(config.read_bytes()).get("base_model_name_or_path")
    if stated != base:
        raise IntegrityError(
            f"The adapter in {adapter_dir} belongs to `{stated}`, and was to be merged into `{base}`.",
            code="train.adapter_mismatch",
            hint=f"Merge it into `{stated}`; a sum with other weights is no trained model.",
        )


def _load(base_dir: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, local_files_only=True)


def _write(model: Any, base_dir: Path, target: Path, stored: torch.dtype) -> None:
    model.to(stored).save_pretrained(target)
    shutil.copytree(base_dir, target, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
