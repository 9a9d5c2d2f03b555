"""Making full versions: an adapter folded into its base's weights, or the weights of full training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ConfigError, IntegrityError
from train_jobs.quiet import no_progress_bars

if TYPE_CHECKING:
    import torch

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "manifest.json")


def merge(base_dir: Path, adapter_dir: Path, target: Path, *, dtype: str) -> None:
    """Write base plus adapter to the new directory `target`, in `dtype` (`bfloat16`, as the base has it).

    The sum is taken in float32 and rounded once, over the base as stored: an adapter trained on a
    quantized base is merged into the unquantized one. Configuration, tokenizer and chat template are
    the base's own files, byte for byte. Raises ConfigError for a dtype that torch does not have.
    """
    from peft import PeftModel

    stored = _floating(dtype)
    with no_progress_bars():
        adapted = PeftModel.from_pretrained(_load(base_dir), adapter_dir, torch_device="cpu")
        _write(adapted.merge_and_unload(), base_dir, target, stored)


def fill(base_dir: Path, weights: Path, target: Path, *, dtype: str) -> None:
    """Write the base with all its weights replaced by those of the safetensors file `weights`.

    Each is rounded once, from float32 to `dtype`; everything else is the base's own, as with `merge`.
    Raises ConfigError for a dtype that torch does not have, and IntegrityError for a file whose
    tensors are not the base's.
    """
    import torch
    from safetensors.torch import load_file

    stored = _floating(dtype)
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


def _floating(dtype: str) -> torch.dtype:
    import torch

    stored = getattr(torch, dtype, None)
    if not isinstance(stored, torch.dtype) or not stored.is_floating_point:
        raise ConfigError(
            f"The base stores its weights as {dtype}, in which trained weights cannot be stored.",
            code="train.merge_dtype",
            hint="Train from a version in bfloat16, float16 or float32, or publish an adapter alone "
            "(`publish.merge=false`, no `publish.version`).",
        )
    return stored


def _load(base_dir: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, local_files_only=True)


def _write(model: Any, base_dir: Path, target: Path, stored: torch.dtype) -> None:
    model.to(stored).save_pretrained(target)
    shutil.copytree(base_dir, target, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
