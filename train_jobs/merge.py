"""Merging: an adapter folded into its base's weights, as a directory of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.errors import ConfigError
from train_jobs.quiet import no_progress_bars

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "manifest.json")


def merge(base_dir: Path, adapter_dir: Path, target: Path, *, dtype: str) -> None:
    """Write base plus adapter to the new directory `target`, in `dtype` (`bfloat16`, as the base has it).

    The sum is taken in float32 and rounded once. Configuration, tokenizer and chat template are the
    base's own files, byte for byte. Raises ConfigError for a dtype that torch does not have.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stored = getattr(torch, dtype, None)
    if not isinstance(stored, torch.dtype) or not stored.is_floating_point:
        raise ConfigError(
            f"The base stores its weights as {dtype}, which an adapter cannot be merged into.",
            code="train.merge_dtype",
            hint="Publish the adapter alone (`publish.merge=false`, no `publish.version`).",
        )
    with no_progress_bars():
        base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, local_files_only=True)
        merged = PeftModel.from_pretrained(base, adapter_dir, torch_device="cpu").merge_and_unload()
        merged.to(stored).save_pretrained(target)
    shutil.copytree(base_dir, target, ignore=shutil.ignore_patterns(*_WEIGHTS), dirs_exist_ok=True)
