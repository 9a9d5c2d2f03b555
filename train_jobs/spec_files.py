"""Reading spec files, and telling whether a run is resumed by the spec that it began with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from cluster.config import Settings, load_yaml, validate
from cluster.errors import ConfigError, ConflictError
from train_jobs.spec import TrainSpec
from train_jobs.spec_keys import deciding

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)\}|(?P<plain>\w+))")


def load_spec(path: str | Path, overrides: Iterable[str] = (), settings: Settings | None = None) -> TrainSpec:
    """Read a spec file with dotted overrides, its paths expanded.

    Raises NotFoundError for a missing file and ConfigError, with file and line, for what does not fit.
    """
    spec = load_yaml(path, TrainSpec, overrides)
    if spec.max_steps and spec.num_train_epochs is not None:
        raise ConfigError(
            f"{path} gives `max_steps` {spec.max_steps} and `num_train_epochs` {spec.num_train_epochs:g}.",
            code="train.steps_and_epochs",
            hint="Give one of them; the override `max_steps=0` or `num_train_epochs=null` takes one back.",
        )
    home = (settings or Settings.load()).home
    paths = {
        "train": expand_path(spec.data.train, home),
        "validation": expand_path(spec.data.validation, home) if spec.data.validation else None,
    }
    return spec.model_copy(update={"data": spec.data.model_copy(update=paths)})


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


def as_resumed(given: TrainSpec, stored: TrainSpec) -> TrainSpec:
    """The spec as it is written, with the steps that its run has found its epochs to be."""
    if given.num_train_epochs is None or given.max_steps:
        return given
    return given.model_copy(update={"max_steps": stored.max_steps})


def require_same(stored: TrainSpec, given: TrainSpec) -> None:
    """Raise ConflictError naming every key that decides what is computed and was changed."""
    before, now = deciding(stored), deciding(given)
    listed = "; ".join(
        f"`{key}` is {now[key]!r}, the run has {old!r}" for key, old in before.items() if now[key] != old
    )
    if listed:
        raise ConflictError(
            f"The run `{given.run}` was started with another spec: {listed}.",
            code="train.spec_changed",
            hint="Give the changed spec another `run` name, or take the change back to resume this one.",
        )
