"""Which keys of a spec decide what a run computes: those stay as they are while it is resumed.

Each key stands in exactly one of the three sets; a test names one that does not.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train_jobs.spec import TrainSpec

# Weights, or when the run ends. Recomputed activations and another number of threads may round differently.
DECIDING = frozenset(
    {
        "model",
        "method",
        "max_steps",
        "num_train_epochs",
        "learning_rate",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "warmup_ratio",
        "warmup_steps",
        "lr_scheduler_type",
        "optim",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "weight_decay",
        "max_grad_norm",
        "seed",
        "max_length",
        "packing",
        "bf16",
        "gradient_checkpointing",
        "eval_steps",
        "per_device_eval_batch_size",
        "early_stopping_patience",
        "early_stopping_threshold",
        "threads_per_worker",
        "parallel.strategy",
        "peft.r",
        "peft.lora_alpha",
        "peft.lora_dropout",
        "peft.target_modules",
        "quantization.load_in_4bit",
        "quantization.load_in_8bit",
        "quantization.bnb_4bit_quant_type",
        "quantization.bnb_4bit_use_double_quant",
        "dpo.beta",
        "dpo.label_smoothing",
    }
)
# Together they say how many slots a step has; which of them says it makes no difference.
SLOTS = frozenset({"num_workers", "workers.max"})
FREE = frozenset(
    {
        "run",
        # Their digests are compared instead (`train_jobs.inputs`): another machine has them elsewhere.
        "data.train",
        "data.validation",
        # Where no row is dropped both come to the same; where one is, `stop` refuses the data.
        "data.on_bad_rows",
        # Which checkpoint is published, of those that there are.
        "load_best_model_at_end",
        "save_steps",
        "save_total_limit",
        "save_total_bytes",
        "logging_steps",
        "report_to",
        "workers.min",
        "standby",
        "fault_tolerance",
        # It can only be the number of slots.
        "parallel.size",
        "failures.max_failures",
        "failures.hang_timeout_s",
        # For the steps to come; what was done with those before stands in the ledger.
        "failures.on_bad_loss",
        "failures.spike_factor",
        "failures.on_mismatch",
        "publish.version",
        "publish.adapter_version",
        "publish.merge",
    }
)
_SLOTS_NAME = "num_workers / workers.max"


def deciding(spec: TrainSpec) -> dict[str, Any]:
    """Every key that decides what is computed, by its dotted name; None below a part that is left out."""
    tree = spec.model_dump(mode="json")
    return {name: _value(tree, name) for name in sorted(DECIDING)} | {_SLOTS_NAME: spec.slots}


def digest(spec: TrainSpec) -> str:
    """Sha256 (hex) of what a spec computes."""
    return hashlib.sha256(json.dumps(deciding(spec), sort_keys=True).encode()).hexdigest()


def _value(tree: dict[str, Any], name: str) -> Any:
    part, _, rest = name.partition(".")
    below = tree[part]
    return _value(below, rest) if rest and below is not None else below
