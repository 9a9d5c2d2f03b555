"""The model being trained: all of a base from the store or LoRA on it, in float32 or on a quantized base."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from cluster.errors import ConfigError, IntegrityError, did_you_mean, one_of
from train_jobs.data.rendering import IGNORED
from train_jobs.dataset import PackedDataset
from train_jobs.isolation import require_isolation
from train_jobs.quiet import no_progress_bars
from train_jobs.spec import Method, PeftSpec, QuantizationSpec, TrainSpec


@dataclass(frozen=True)
class Batch:
    """One microbatch, padded on the right; all of shape (rows, longest).

    Rows are told apart from their padding by `attention_mask`; of packs, which have none, the samples by
    `position_ids` that begin again.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    labels: torch.Tensor
    position_ids: torch.Tensor | None = None

    def to(self, where: torch.device) -> Batch:
        """The same batch on another device."""
        mask, places = self.attention_mask, self.position_ids
        return Batch(
            self.input_ids.to(where),
            None if mask is None else mask.to(where),
            self.labels.to(where),
            None if places is None else places.to(where),
        )

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model is called with."""
        given = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
        }
        return {name: tensor for name, tensor in given.items() if tensor is not None}


def device() -> torch.device:
    """The GPU that this process was given, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def autocast(spec: TrainSpec) -> AbstractContextManager[Any]:
    """What the forward passes of a run are wrapped in: bfloat16 arithmetic with `bf16`, else nothing."""
    return torch.autocast(device().type, dtype=torch.bfloat16) if spec.bf16 else nullcontext()


def build(spec: TrainSpec, directory: Path, base_ref: str) -> Any:
    """The model that `spec` trains, from the base's directory; what takes gradients is in float32.

    `base_ref` (`smollm2:v1`) is what an adapter says it belongs to. LoRA's initial values depend on
    `spec.seed` alone. Raises IntegrityError `train.bad_weights` for NaN or infinite values in the
    base, ConfigError for target modules that the model does not have, and with packing for a model that
    does not keep the samples of a pack apart.
    """
    require_finite(directory)
    compute = torch.bfloat16 if spec.bf16 else torch.float32
    model = load_base(directory, spec.quantization, compute=compute)
    if spec.packing:
        require_isolation(model)
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if spec.peft is None:
        return model.requires_grad_(True)
    adapted = attach_lora(model, spec.peft, spec.seed)
    adapted.peft_config["default"].base_model_name_or_path = base_ref
    return adapted


def reference(spec: TrainSpec, directory: Path) -> Any | None:
    """What full DPO compares with: the base, frozen. None where the base below an adapter serves as such."""
    if spec.method is not Method.DPO or spec.peft is not None:
        return None
    return load_base(directory).eval().requires_grad_(False)


def load_base(
    directory: Path, quantization: QuantizationSpec | None = None, *, compute: torch.dtype = torch.float32
) -> Any:
    """The causal model of a Hugging Face directory, on this process's device, in float32.

    With `quantization` its linear layers but the head hold fewer bits and multiply in `compute`.
    """
    from transformers import AutoModelForCausalLM

    bits: dict[str, Any] = {}
    if quantization:
        bits = {"quantization_config": _bits(quantization, compute), "device_map": {"": device()}}
    with no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True, **bits
        )
    model.config.use_cache = False
    if not quantization:
        return model.to(device())
    _steady_kernels(model)
    return model


def attach_lora(base: Any, spec: PeftSpec, seed: int) -> Any:
    """Put LoRA on a base; its initial values depend on `seed` alone.

    Raises ConfigError for target modules that the model does not have.
    """
    from peft import LoraConfig, get_peft_model

    if not isinstance(spec.target_modules, str):
        _require_targets(base, spec.target_modules)
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
        with warnings.catch_warnings():
            # PEFT tells that it adapts itself to layers which store their weights transposed (GPT-2's).
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            return get_peft_model(base, config)
    except ValueError as error:
        raise ConfigError(
            f"`peft.target_modules` is {spec.target_modules!r}: {error}",
            code="train.target_modules",
            hint="Name linear layers of the model (q_proj, v_proj, …), or write all-linear.",
        ) from None


def _require_targets(base: Any, targets: Sequence[str]) -> None:
    """Raise ConfigError for the first name that no module has; PEFT is content when one of them fits."""
    names = {name for name, _ in base.named_modules()}
    for target in targets:
        if any(name == target or name.endswith(f".{target}") for name in names):
            continue
        known = {name.rpartition(".")[2] for name, module in base.named_modules() if _is_linear(module)}
        raise ConfigError(
            f"`peft.target_modules` names `{target}`, and no module of the model is called so."
            f"{did_you_mean(target, sorted(known))}",
            code="train.target_modules",
            hint=f"Linear layers of the model: {one_of(sorted(known))}; all-linear takes all but the head.",
        )


def _is_linear(module: torch.nn.Module) -> bool:
    # GPT-2's are no torch.nn.Linear, and those in fewer bits are subclasses of it.
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def require_finite(directory: Path) -> None:
    """Raise IntegrityError naming the first tensor of a model's files that holds NaN or infinity."""
    from safetensors import safe_open

    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if not _is_finite(file.get_tensor(name)):
                    raise IntegrityError(
                        f"The tensor `{name}` in {path} holds NaN or infinite values; training from it "
                        "cannot succeed.",
                        code="train.bad_weights",
                        hint="Name a version with finite weights under `model`; `linnet models` lists them.",
                    )


def trainable(model: Any) -> list[torch.nn.Parameter]:
    """Parameters that take gradients, in a stable order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def collate(dataset: PackedDataset, indices: Sequence[int], pad_id: int) -> Batch:
    """Pad the samples to the longest of them.

    Padding comes after all that counts, so that packs need no mask: what does not look ahead never sees it.
    """
    rows = [dataset.sample(index) for index in indices]
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (ids, wanted) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.from_numpy(ids.astype("int64"))
        labels[row, : len(wanted)] = torch.from_numpy(wanted.astype("int64"))
        mask[row, : len(ids)] = 1
    if dataset.packs is None:
        return Batch(input_ids, mask, labels)
    places = torch.zeros(shape, dtype=torch.long)
    for row, index in enumerate(indices):
        own = dataset.positions(index)
        places[row, : len(own)] = torch.from_numpy(own)
    return Batch(input_ids, None, labels, places)


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the batch's answer tokens, a float32 scalar on the model's device.

    Where the model can, logits are computed only at positions that predict an answer token in some row.
    """
    batch = batch.to(model.device)
    targets = functional.pad(batch.labels[:, 1:], (0, 1), value=IGNORED)
    wanted = {}
    if takes_positions(model):
        positions = (targets != IGNORED).any(dim=0).nonzero().flatten()
        wanted["logits_to_keep"], targets = positions, targets[:, positions]
    logits = model(**batch.inputs, **wanted).logits
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def takes_positions(model: Any) -> bool:
    """Whether the model computes logits only where it is asked to."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass without a mask of the tensor's size; kinds of 8 bits have no such kernel.
    low, high = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
    return bool(torch.isfinite(low) and torch.isfinite(high))


def _bits(spec: QuantizationSpec, compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**spec.model_dump(), bnb_4bit_compute_dtype=compute)


def _steady_kernels(model: Any) -> None:
    """Keep one arithmetic for training and evaluation.

    In eval mode on the CPU, bitsandbytes repacks 4-bit weights for good into a form whose kernel has no
    gradient, so that one evaluation would ruin the steps after it; and it rounds the inputs of 8-bit
    layers too, so that a loss in eval mode would be another function than the one being trained.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt) and module.weight.device.type == "cpu":
            module.register_forward_pre_hook(lambda layer, _: layer.train() and None)
