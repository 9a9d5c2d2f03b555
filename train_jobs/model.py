"""The model being trained: a frozen float32 base from the store with LoRA on it, and its loss on answers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from cluster.errors import ConfigError
from train_jobs.data.rendering import IGNORED
from train_jobs.dataset import PackedDataset
from train_jobs.quiet import no_progress_bars
from train_jobs.spec import PeftSpec


@dataclass(frozen=True)
class Batch:
    """One microbatch, padded on the right; all of shape (rows, longest)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor


def load_base(directory: Path) -> Any:
    """The causal model of a Hugging Face directory, in float32 on the CPU."""
    from transformers import AutoModelForCausalLM

    with no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, local_files_only=True)
    model.config.use_cache = False
    return model


def attach_lora(base: Any, spec: PeftSpec, seed: int) -> Any:
    """Put LoRA on a base; its initial values depend on `seed` alone.

    Raises ConfigError for target modules that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    targets = spec.target_modules if isinstance(spec.target_modules, str) else list(spec.target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.r,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=targets,
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(
            f"`peft.target_modules` is {spec.target_modules!r}: {error}",
            code="train.target_modules",
            hint="Name linear layers of the model (q_proj, v_proj, …), or write all-linear.",
        ) from None


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """Parameters that take gradients, in a stable order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def collate(dataset: PackedDataset, indices: Sequence[int], pad_id: int) -> Batch:
    """Pad the samples to the longest of them."""
    rows = [dataset.sample(index) for index in indices]
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (ids, wanted) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.from_numpy(ids.astype("int64"))
        labels[row, : len(wanted)] = torch.from_numpy(wanted.astype("int64"))
        mask[row, : len(ids)] = 1
    return Batch(input_ids, mask, labels)


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the batch's answer tokens, a scalar.

    Where the model can, logits are computed only at positions that predict an answer token in some row.
    """
    targets = functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    wanted = {}
    if _takes_positions(model):
        positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
        wanted["logits_to_keep"], targets = positions, targets[:, positions]
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **wanted).logits
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _takes_positions(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
