"""A base of finite weights whose loss is finite too, but for texts in which one letter stands."""

from __future__ import annotations

from pathlib import Path

from tests.support.tiny_model import make_tiny_model

LETTER = "~"
_CHANNEL = 0
_NEARLY_TOO_MUCH = 3e38


def make_poisoned_model(directory: Path) -> Path:
    """Write the tiny model with one channel that only LETTER's embedding uses.

    The first norm scales that channel to the end of what float32 can hold: 0 stays 0, and 1 overflows.
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    make_tiny_model(directory)
    (poisoned,) = AutoTokenizer.from_pretrained(directory).encode(LETTER, add_special_tokens=False)
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights["model.embed_tokens.weight"][:, _CHANNEL] = 0.0
    weights["model.embed_tokens.weight"][poisoned, _CHANNEL] = 1.0
    weights["model.layers.0.input_layernorm.weight"][_CHANNEL] = _NEARLY_TOO_MUCH
    save_file(weights, path, metadata={"format": "pt"})
    return directory
