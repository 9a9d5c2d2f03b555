"""Which adapters a base's replicas are to serve: `user_config` of the base's deployment."""

from __future__ import annotations

from typing import Any

from cluster.config import StrictModel, validate
from cluster.errors import ConfigError
from cluster.refs import VersionRef, parse_version_ref


class BaseUserConfig(StrictModel):
    """`adapters` are exact versions of the base's model, such as `smollm2:v2`."""

    adapters: tuple[str, ...] = ()


def read_adapters(user_config: Any, base: VersionRef) -> tuple[VersionRef, ...]:
    """The wanted versions, each once, in the order of the file.

    Raises ConfigError for an unknown key, and UsageError or ConfigError for what is no exact
    version of the base's model.
    """
    given = validate(user_config or {}, BaseUserConfig, source="user_config")
    return tuple(dict.fromkeys(_adapter(text, base) for text in given.adapters))


def _adapter(text: str, base: VersionRef) -> VersionRef:
    ref = parse_version_ref(text)
    if ref.model != base.model or ref == base:
        raise ConfigError(
            f"`{ref}` is no adapter of `{base}`.",
            code="adapters.other_model",
            hint=f"Name versions of {base.model} whose parent is {base}: `linnet models list` shows them.",
        )
    return ref
