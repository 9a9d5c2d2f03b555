"""The training spec: what a person writes in YAML, with Hugging Face Trainer's and PEFT's own key names."""

from __future__ import annotations

import math
from enum import StrEnum
from fractions import Fraction as Ratio
from typing import Annotated, Self

import yaml
from pydantic import Field, StringConstraints, model_validator

from cluster.config import StrictModel
from cluster.errors import ConflictError
from train_jobs import spec_keys
from train_jobs.parallel import ParallelSpec, Strategy, parallel_misfit

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class SchedulerType(StrEnum):
    """How the learning rate falls after the warm-up; `constant` has none."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


class Method(StrEnum):
    """What a step minimises: cross entropy on answers, or the preference loss of DPO."""

    SFT = "sft"
    DPO = "dpo"


class Optimizer(StrEnum):
    """Optimizers, by Hugging Face Trainer's names."""

    ADAMW = "adamw_torch"
    ADAMW_8BIT = "adamw_bnb_8bit"
    SGD = "sgd"


class Tracker(StrEnum):
    """Where a run reports to besides its own JSONL file."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


class FaultTolerance(StrEnum):
    """What survivors of a lost worker do: resume from the last commit at full strength, or go on at once."""

    RESTART = "restart"
    CONTINUE = "continue"


class BadLoss(StrEnum):
    """What follows a loss that is not finite or that spikes."""

    STOP = "stop"
    SKIP = "skip"


class Mismatch(StrEnum):
    """What follows a resume certificate that does not hold."""

    STOP = "stop"
    WARN = "warn"


class BadRows(StrEnum):
    """What follows rows that cannot be used."""

    STOP = "stop"
    SKIP = "skip"


class DataSpec(StrictModel):
    """Files of samples.

    `~`, `$NAME` and `${LINNET_HOME}` are filled in; a relative path starts at the current directory.
    `validation` is not trained on: it is what `eval_steps` evaluates, and some of its prompts become
    golden prompts of what is published.
    """

    train: str
    validation: str | None = None
    on_bad_rows: BadRows = BadRows.STOP


class PeftSpec(StrictModel):
    """LoRA, as `peft.LoraConfig` names it."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


class QuantizationSpec(StrictModel):
    """The frozen base in fewer bits (QLoRA), as `transformers.BitsAndBytesConfig` names it."""

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    bnb_4bit_quant_type: Annotated[str, StringConstraints(pattern=r"^(nf4|fp4)$")] = "nf4"
    bnb_4bit_use_double_quant: bool = False

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("set exactly one of `load_in_4bit` and `load_in_8bit`")
        return self


class DpoSpec(StrictModel):
    """Direct preference optimization (Rafailov 2023, arXiv 2305.18290), as `trl.DPOConfig` names it."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0


class WorkersSpec(StrictModel):
    """An elastic group: full strength is `max`, and it trains on while `min` are left."""

    min: Positive
    max: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"`min` {self.min} is more than `max` {self.max}")
        return self


class FailuresSpec(StrictModel):
    """What a run does about failures.

    `max_failures` is a budget that one committed checkpoint beyond the last failure refills; -1: any
    number. `hang_timeout_s` bounds, in seconds, how long one rank may keep the others waiting.
    """

    max_failures: Annotated[int, Field(ge=-1)] = 8
    hang_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    on_bad_loss: BadLoss = BadLoss.STOP
    spike_factor: Annotated[float, Field(gt=1)] | None = None
    on_mismatch: Mismatch = Mismatch.STOP


class PublishSpec(StrictModel):
    """Which versions of the base's model the finished run becomes."""

    version: Name | None = None
    adapter_version: Name | None = None
    merge: bool = True

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.merge and self.version is None:
            raise ValueError("`merge: true` needs `version`, the name of the merged version")
        if not self.merge and self.version is not None:
            raise ValueError("`version` names the merged version, but `merge` is false")
        if self.adapter_version is None and self.version is None:
            raise ValueError("nothing to publish: give `version`, `adapter_version`, or leave `publish` out")
        if self.version == self.adapter_version:
            raise ValueError("`version` and `adapter_version` must differ")
        return self


class TrainSpec(StrictModel):
    """One run. A step trains `global_batch_size` samples, however many workers live.

    `max_steps` is 0 until `with_steps` has found what `num_train_epochs` are.
    """

    run: Name
    model: str
    method: Method = Method.SFT
    data: DataSpec
    max_steps: Annotated[int, Field(ge=0)] = 0
    num_train_epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    learning_rate: Annotated[float, Field(gt=0)]
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 1
    warmup_ratio: Fraction = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    lr_scheduler_type: SchedulerType = SchedulerType.LINEAR
    optim: Optimizer = Optimizer.ADAMW
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 42
    max_length: Positive = 1024
    packing: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    eval_steps: Positive | None = None
    per_device_eval_batch_size: Positive = 8
    early_stopping_patience: Positive | None = None
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    load_best_model_at_end: bool = False
    save_steps: Positive = 50
    save_total_limit: Positive = 3
    save_total_bytes: Positive | None = None
    logging_steps: Positive = 1
    report_to: tuple[Tracker, ...] = ()
    num_workers: Positive = 1
    workers: WorkersSpec | None = None
    standby: Annotated[int, Field(ge=0)] = 0
    threads_per_worker: Positive = 1
    parallel: ParallelSpec = ParallelSpec()
    fault_tolerance: FaultTolerance = FaultTolerance.RESTART
    peft: PeftSpec | None = PeftSpec()
    quantization: QuantizationSpec | None = None
    dpo: DpoSpec = DpoSpec()
    failures: FailuresSpec = FailuresSpec()
    publish: PublishSpec | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.max_steps and self.num_train_epochs is None:
            raise ValueError("give one of `max_steps`, at least 1, and `num_train_epochs`")
        if self.packing and self.method is not Method.SFT:
            raise ValueError(f"`packing` is for `method: sft`; `{self.method}` trains on single pairs")
        if self.workers is not None and self.num_workers not in (1, self.workers.max):
            raise ValueError("give `num_workers` or `workers`, or the same number in both")
        if self.quantization is not None and self.peft is None:
            raise ValueError("`quantization` needs `peft`: a base in fewer bits takes no gradients itself")
        if self.peft is None and self.publish is not None and self.publish.adapter_version is not None:
            raise ValueError("`publish.adapter_version` needs `peft`: full training makes no adapter")
        if self.eval_steps is not None and self.data.validation is None:
            raise ValueError("`eval_steps` needs `data.validation`")
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError("`early_stopping_patience` needs `eval_steps`")
        if self.load_best_model_at_end and (self.eval_steps is None or self.save_steps % self.eval_steps):
            raise ValueError("`load_best_model_at_end` needs `eval_steps`, and `save_steps` a multiple of it")
        return self

    @model_validator(mode="after")
    def _parallel_fits(self) -> Self:
        if misfit := parallel_misfit(self):
            raise ValueError(misfit)
        return self

    @property
    def is_sharded(self) -> bool:
        """Whether each worker holds but a part of the model."""
        return self.parallel.strategy is Strategy.FSDP

    @property
    def slots(self) -> int:
        """Equal parts of every step: one a worker at full strength, whoever computes them."""
        return self.workers.max if self.workers else self.num_workers

    @property
    def min_workers(self) -> int:
        """How many workers it takes to start."""
        if self.workers is not None:
            return self.workers.min
        return 1 if self.fault_tolerance is FaultTolerance.CONTINUE else self.num_workers

    @property
    def min_live(self) -> int:
        """How many train on until the lost are replaced; the losses are the same for any number."""
        if self.workers is not None:
            return self.workers.min
        return self.slots if self.is_sharded else 1

    @property
    def microbatches(self) -> int:
        """Microbatches of `per_device_train_batch_size` rows in one step, over all workers."""
        return self.slots * self.gradient_accumulation_steps

    @property
    def global_batch_size(self) -> int:
        """Samples in one step."""
        return self.microbatches * self.per_device_train_batch_size

    @property
    def sha256(self) -> str:
        """Identity of what the resolved spec computes."""
        return spec_keys.digest(self)

    def with_steps(self, samples: int) -> TrainSpec:
        """The spec with `max_steps` as `num_train_epochs` passes over so many samples make it, if given.

        Raises ConflictError when it had been found to be another number: the data have changed.
        """
        if self.num_train_epochs is None:
            return self
        steps = math.ceil(Ratio(str(self.num_train_epochs)) * samples / self.global_batch_size)
        if self.max_steps not in (0, steps):
            raise ConflictError(
                f"{self.num_train_epochs:g} epochs of {samples} samples are {steps} steps; the run "
                f"`{self.run}` was started with {self.max_steps}, so that its data have changed.",
                code="train.data_changed",
                hint="Give it its former data back, or give the spec another `run` name.",
            )
        return self.model_copy(update={"max_steps": steps})

    def to_yaml(self) -> str:
        """The spec as YAML, in the order of the fields."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
