"""What the configuration of a base says of its shape, and of how long its rows may be."""

from __future__ import annotations

import json
from typing import Any

from cluster.config import StrictModel
from cluster.refs import VersionRef
from cluster.storage import Storage
from cluster.store.layout import version_dir

# The names that architectures have for the same number.
_WIDTH = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_VOCABULARY = ("vocab_size",)
_CONTEXT = ("max_position_embeddings", "n_positions")


class BaseConfig(StrictModel):
    """Each is None where the configuration does not say it.

    `context` counts the tokens of the longest row that the model was made for; one that knows no
    positions has none.
    """

    width: int | None = None
    layers: int | None = None
    vocabulary: int | None = None
    context: int | None = None


def read_config(storage: Storage, base: VersionRef) -> BaseConfig:
    """What the config.json of a version in the store says; nothing else of a remote one is fetched."""
    return parse_config(storage.read_bytes(f"{version_dir(base)}/config.json"))


def parse_config(text: bytes) -> BaseConfig:
    """What a config.json says; of a model with further parts, its part for text."""
    tree = json.loads(text)
    inner = tree.get("text_config")
    keys = {**tree, **inner} if isinstance(inner, dict) else tree
    return BaseConfig(
        width=_first(keys, _WIDTH),
        layers=_first(keys, _LAYERS),
        vocabulary=_first(keys, _VOCABULARY),
        context=_stretched(_first(keys, _CONTEXT), keys),
    )


def _first(keys: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((keys[name] for name in names if isinstance(keys.get(name), int)), None)


def _stretched(context: int | None, keys: dict[str, Any]) -> int | None:
    """Rotary positions can be scaled to longer rows than the model was first trained on."""
    rope = keys.get("rope_parameters") or keys.get("rope_scaling")
    if context is None or not isinstance(rope, dict):
        return context
    factor, original = rope.get("factor"), rope.get("original_max_position_embeddings") or context
    return max(context, int(original * factor)) if isinstance(factor, int | float) else context
