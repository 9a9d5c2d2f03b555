"""Random LoRA adapters of the tiny model, far enough from zero that they answer otherwise than it."""

from __future__ import annotations

from pathlib import Path


def make_tiny_adapter(
    base: Path, directory: Path, *, seed: int, rank: int = 4, modules: str | list[str] = "all-linear"
) -> Path:
    """Write a PEFT directory with random A and B."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(directory)
    return directory
