"""Directories of version files written by hand, so that store tests need no torch."""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def write_safetensors(file: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> Path:
    """Write tensors given as (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return file


def write_model(directory: Path, *, seed: int = 0, rows: int = 64) -> Path:
    """A base model of `rows` x 8 bfloat16 numbers and 8 float32 ones."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["TinyForCausalLM"]}))
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": seed}}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "a"}))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    weights = {
        "embed.weight": ("BF16", [rows, 8], bytes([seed % 256]) * (rows * 16)),
        "norm.weight": ("F32", [8], bytes(32)),
    }
    write_safetensors(directory / "model.safetensors", weights)
    return directory


def write_adapter(directory: Path) -> Path:
    """A LoRA adapter without a tokenizer, as PEFT writes it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    write_safetensors(directory / "adapter_model.safetensors", {"lora_A.weight": ("F32", [4, 2], bytes(32))})
    return directory
