"""What a directory of Hugging Face files says of itself, read from the files alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.config import StrictModel
from cluster.errors import IntegrityError
from cluster.manifest import MANIFEST_NAME, VersionKind
from cluster.store.safetensors import Tensor, read_header

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_ADAPTER = "adapter_model.safetensors"
_TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
}  # fmt: skip


class Description(StrictModel):
    """The facts that a manifest takes from the files.

    `dtype` is the one that most weight bytes are stored in, `parameters` the number of stored numbers.
    The tokenizer hash is None for an adapter that relies on its parent's tokenizer.
    """

    architecture: str
    dtype: str
    parameters: int
    tokenizer_sha256: str | None
    chat_template_sha256: str | None


def describe(directory: Path, kind: VersionKind) -> Description:
    """Read the configuration, the weight headers and the tokenizer of `directory`.

    Raises IntegrityError naming the file that is missing, truncated or does not parse.
    """
    adapter = kind is VersionKind.ADAPTER
    architecture = _adapter_architecture(directory) if adapter else _model_architecture(directory)
    tensors = [t for file in _weight_files(directory, adapter=adapter) for t in read_header(file).values()]
    if not tensors:
        raise _wrong(directory, "holds no weights", "its safetensors files are empty")
    tokenizer = _tokenizer_hash(directory)
    if tokenizer is None and not adapter:
        raise _wrong(directory, "holds no tokenizer", "expected tokenizer.json")
    return Description(
        architecture=architecture,
        dtype=_main_dtype(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        tokenizer_sha256=tokenizer,
        chat_template_sha256=_chat_template_hash(directory),
    )


def publishable_files(directory: Path) -> list[str]:
    """Relative paths of the files that make a version: hidden ones and an old manifest stay out."""
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    kept = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(path.as_posix() for path in kept if path.as_posix() != MANIFEST_NAME)


def _model_architecture(directory: Path) -> str:
    names = _read_json(directory, "config.json").get("architectures")
    if not isinstance(names, list) or not names:
        raise _wrong(directory, "has no `architectures` in config.json", "expected such as LlamaForCausalLM")
    return str(names[0])


def _adapter_architecture(directory: Path) -> str:
    return str(_read_json(directory, "adapter_config.json").get("peft_type", "LORA"))


def _weight_files(directory: Path, *, adapter: bool) -> list[Path]:
    if adapter:
        return [_required(directory, _ADAPTER)]
    if (directory / _INDEX).is_file():
        shards = _read_json(directory, _INDEX).get("weight_map", {})
        return [_required(directory, name) for name in sorted(set(shards.values()))]
    if (directory / _SINGLE).is_file():
        return [directory / _SINGLE]
    found = sorted(directory.glob("*.safetensors"))
    return found or [_required(directory, _SINGLE)]


def _main_dtype(tensors: list[Tensor]) -> str:
    weight: Counter[str] = Counter()
    for tensor in tensors:
        weight[tensor.dtype] += tensor.end - tensor.start
    name = weight.most_common(1)[0][0]
    return _DTYPES.get(name, name.lower())


def _tokenizer_hash(directory: Path) -> str | None:
    for names in _TOKENIZERS:
        files = [directory / name for name in names]
        if all(file.is_file() for file in files):
            if names == ("tokenizer.json",):
                _read_json(directory, "tokenizer.json")
            return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return None


def _chat_template_hash(directory: Path) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    if not (directory / "tokenizer_config.json").is_file():
        return None
    template = _read_json(directory, "tokenizer_config.json").get("chat_template")
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(_required(directory, name).read_bytes())
    except ValueError as error:
        raise _wrong(directory, f"has a `{name}` that is not JSON", str(error)) from None
    if not isinstance(value, dict):
        raise _wrong(directory, f"has a `{name}` that is not an object", f"found {type(value).__name__}")
    return value


def _required(directory: Path, name: str) -> Path:
    file = directory / name
    if not file.is_file():
        raise _wrong(directory, f"has no `{name}`", "weights (safetensors), config and tokenizer are needed")
    return file


def _wrong(directory: Path, what: str, detail: str) -> IntegrityError:
    return IntegrityError(
        f"`{directory}` {what}: {detail}.",
        code="weights.incomplete",
        hint="Give a directory as `save_pretrained` writes it.",
    )
