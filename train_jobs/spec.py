"""The training spec: what a person writes in YAML, with Hugging Face Trainer's and PEFT's own key names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, StringConstraints, model_validator

from cluster.config import Settings, StrictModel, load_yaml, validate
from cluster.errors import ConfigError, ConflictError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<plain>\w+))")


class SchedulerType(StrEnum):
    """How the learning rate falls after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class DataSpec(StrictModel):
    """Files of samples.

    `~`, `$NAME` and `${LINNET_HOME}` are filled in; a relative path starts at the current directory.
    `validation` is not trained on: some of its prompts become golden prompts of what is published.
    """

    train: str
    validation: str | None = None


class PeftSpec(StrictModel):
    """LoRA, as `peft.LoraConfig` names it."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


class FailuresSpec(StrictModel):
    """How many lost workers one launch survives; -1: any number."""

    max_failures: Annotated[int, Field(ge=-1)] = 8


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
    """One run. A step trains `global_batch_size` samples, however many workers live."""

    run: Name
    model: str
    data: DataSpec
    max_steps: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 1
    warmup_ratio: Fraction = 0.0
    lr_scheduler_type: SchedulerType = SchedulerType.LINEAR
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0)] = 42
    max_length: Positive = 1024
    save_steps: Positive = 50
    save_total_limit: Positive = 3
    logging_steps: Positive = 1
    num_workers: Positive = 1
    threads_per_worker: Positive = 1
    peft: PeftSpec = PeftSpec()
    failures: FailuresSpec = FailuresSpec()
    publish: PublishSpec | None = None

    @property
    def microbatches(self) -> int:
        """Microbatches of `per_device_train_batch_size` rows in one step, over all workers."""
        return self.num_workers * self.gradient_accumulation_steps

    @property
    def global_batch_size(self) -> int:
        """Samples in one step."""
        return self.microbatches * self.per_device_train_batch_size

    @property
    def sha256(self) -> str:
        """Identity of the resolved spec."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def to_yaml(self) -> str:
        """The spec as YAML, in the order of the fields."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def load_spec(path: str | Path, overrides: Iterable[str] = (), settings: Settings | None = None) -> TrainSpec:
    """Read a spec file with dotted overrides, its paths expanded.

    Raises NotFoundError for a missing file and ConfigError, with file and line, for what does not fit.
    """
    spec = load_yaml(path, TrainSpec, overrides)
    home = (settings or Settings.load()).home
    data = DataSpec(
        train=expand_path(spec.data.train, home),
        validation=expand_path(spec.data.validation, home) if spec.data.validation else None,
    )
    return spec.model_copy(update={"data": data})


def parse_stored_spec(text: str, source: str) -> TrainSpec:
    """The spec that a run directory keeps. Raises ConfigError when it no longer reads."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}", code="config.not_yaml") from None
    return validate(tree, TrainSpec, source=source)


def expand_path(path: str, home: Path) -> str:
    """Absolute path with `~` and variables filled in; LINNET_HOME is always known."""
    known: Mapping[str, str] = {**os.environ, "LINNET_HOME": str(home)}

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        if name not in known:
            raise ConfigError(
                f"`{path}` uses the variable `{name}`, which is not set.",
                code="config.variable",
                hint=f"Set {name}, or write the path out; ${{LINNET_HOME}} is always known ({home}).",
            )
        return known[name]

    return str(Path(_VARIABLE.sub(value, path)).expanduser().absolute())


def require_same(stored: TrainSpec, given: TrainSpec) -> None:
    """Raise ConflictError naming every key in which a run's spec was changed."""
    differing = sorted(_differences(stored.model_dump(mode="json"), given.model_dump(mode="json")))
    if not differing:
        return
    listed = "; ".join(f"`{key}` is {new!r}, the run has {old!r}" for key, old, new in differing)
    raise ConflictError(
        f"The run `{given.run}` was started with another spec: {listed}.",
        code="train.spec_changed",
        hint="Give the changed spec another `run` name, or take the change back to resume this one.",
    )


def _differences(old: Any, new: Any, prefix: str = "") -> Iterable[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield prefix, old, new
