"""Settings from the environment, and strict YAML loading with file, line and suggestion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cluster.errors import ConfigError, NotFoundError, did_you_mean, one_of


class StrictModel(BaseModel):
    """Base of all specs and records: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Settings(StrictModel):
    """Where this installation keeps its things.

    `home` is always a local directory; `root` is the shared storage root, a path or URL;
    `state_url` is an SQLAlchemy URL.
    """

    home: Path
    root: str
    state_url: str

    @classmethod
    def load(cls, root: str | None = None) -> Settings:
        """Read `LINNET_HOME`, `LINNET_ROOT` and `LINNET_STATE_URL`; `root` wins over both."""
        home = Path(os.environ.get("LINNET_HOME") or Path.home() / ".linnet").expanduser().resolve()
        chosen = root or os.environ.get("LINNET_ROOT") or str(home)
        state_url = os.environ.get("LINNET_STATE_URL") or f"sqlite:///{_state_dir(home, chosen)}"
        return cls(home=home, root=chosen, state_url=state_url)


def _state_dir(home: Path, root: str) -> Path:
    local = root.removeprefix("file://")
    base = home if "://" in local else Path(local).expanduser().resolve()
    return base / "state" / "linnet.db"


ModelT = TypeVar("ModelT", bound=BaseModel)


def load_yaml(path: str | Path, model: type[ModelT], overrides: Iterable[str] = ()) -> ModelT:
    """Read a YAML file into `model`; dotted `overrides` (`optim.lr=1e-4`) win over the file.

    Raises NotFoundError for a missing file and ConfigError, with file and line, for what
    does not parse or fit.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(
            f"There is no file `{path}`.", code="config.no_file", hint="Give the path of a YAML file."
        )
    text = file.read_text(encoding="utf-8")
    tree, lines = _parse(text, str(path))
    for override in overrides:
        _apply_override(tree, override)
    return validate(tree, model, source=str(path), lines=lines)


def validate(
    tree: Any,
    model: type[ModelT],
    *,
    source: str,
    lines: dict[tuple[str | int, ...], int] | None = None,
) -> ModelT:
    """Validate a parsed tree; errors name `source`, the line where known, and the nearest key."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise _explain(error.errors(), model, source, lines or {}) from None


def _parse(text: str, source: str) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}", code="config.not_yaml") from None
    if not isinstance(tree, dict) or node is None:
        raise ConfigError(
            f"{source} holds {type(tree).__name__}, expected a mapping of keys.", code="config.not_mapping"
        )
    lines: dict[tuple[str | int, ...], int] = {}
    _collect_lines(node, (), lines)
    return tree, lines


def _collect_lines(
    node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, key.value)
            lines[here] = key.start_mark.line + 1
            _collect_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _collect_lines(item, (*path, index), lines)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    dotted, separator, raw = override.partition("=")
    if not separator or not dotted:
        raise ConfigError(
            f"`{override}` is not an override.", code="config.override", hint="Write key.sub=value."
        )
    *parents, leaf = dotted.split(".")
    target = tree
    for name in parents:
        # What is left out and what is null are the same: a section that its first key makes.
        if target.get(name) is None:
            target[name] = {}
        target = target[name]
        if not isinstance(target, dict):
            raise ConfigError(
                f"`{override}` goes through `{name}`, which is a plain value.", code="config.override"
            )
    target[leaf] = _scalar(raw)


def _scalar(raw: str) -> Any:
    value = yaml.safe_load(raw)
    if isinstance(value, str):
        # YAML 1.1 reads `1e-4` as text because it wants a dot; people mean the number.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(
    errors: list[ErrorDetails],
    model: type[BaseModel],
    source: str,
    lines: dict[tuple[str | int, ...], int],
) -> ConfigError:
    first = min(errors, key=lambda e: e["type"] != "extra_forbidden")
    location = tuple(first["loc"])
    where = f"{source}:{lines[location]}" if location in lines else source
    dotted = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        parent = ".".join(str(part) for part in location[:-1])
        owner = f" of `{parent}`" if parent else ""
        return ConfigError(
            f"{where}: `{location[-1]}` is not a key{owner}.{did_you_mean(str(location[-1]), known)}",
            code="config.unknown_key",
            hint=f"Accepted keys: {one_of(known)}.",
        )
    if first["type"] == "missing":
        return ConfigError(f"{source}: the key `{dotted}` is missing.", code="config.missing_key")
    return ConfigError(
        f"{where}: `{dotted}` is {first['input']!r}: {first['msg']}.", code="config.invalid_value"
    )


def _fields_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    current: type[BaseModel] | None = model
    chosen = 0  # keys of mappings, which people choose
    for part in path:
        if isinstance(part, int) or current is None:
            continue
        if chosen:
            chosen -= 1
            continue
        field = current.model_fields.get(part)
        chosen = _mappings_around(field.annotation) if field else 0
        current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _mappings_around(annotation: Any) -> int:
    """How many keys that people choose stand between a field and the model within it."""
    if get_origin(annotation) is dict:
        return 1 + _mappings_around(get_args(annotation)[1])
    return max((_mappings_around(argument) for argument in get_args(annotation)), default=0)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found:
            return found
    return None
