"""Manifests: a directory exists once its `manifest.json` has been written, last and atomically.

The manifest lists each file with its sha256 and size. Readers trust nothing without one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from pydantic import Field, ValidationError

from cluster.config import StrictModel
from cluster.errors import IntegrityError, NotFoundError
from cluster.storage import Storage, fsync_dir

MANIFEST_NAME = "manifest.json"


class FileEntry(StrictModel):
    """One file's identity; `size` in bytes."""

    sha256: str
    size: int


class Manifest(StrictModel):
    """What every committed directory says of itself."""

    schema_version: int = 1
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    files: dict[str, FileEntry]

    def to_bytes(self) -> bytes:
        """Readable, stable JSON."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @property
    def total_bytes(self) -> int:
        """Sum of the sizes of all files."""
        return sum(entry.size for entry in self.files.values())


class VersionKind(StrEnum):
    """What the files of a version are."""

    BASE = "base"
    ADAPTER = "adapter"
    MERGED = "merged"
    QUANTIZED = "quantized"


class Lineage(StrictModel):
    """The run and step that a version came from, and what was measured there, such as `eval_loss`."""

    run: str
    step: int
    metrics: dict[str, float] = Field(default_factory=dict)


class GoldenAnswer(StrictModel):
    """A prompt and the greedy answer that transformers gives to it, as text and token ids.

    `prompt_token_ids` already holds the chat template. `answer_token_ids` has at most
    `max_tokens` ids and stops after an end-of-sequence token. `top2_margin` is the smallest
    gap between the best and second logit on the way: how near the answer was to a tie.
    """

    prompt: str
    prompt_token_ids: list[int]
    answer: str
    answer_token_ids: list[int]
    max_tokens: int
    top2_margin: float


class Golden(StrictModel):
    """The reference that a replica is proven against (rule 6), and how it was computed."""

    dtype: str
    transformers_version: str
    answers: list[GoldenAnswer]


class VersionManifest(Manifest):
    """The manifest of one model version.

    `dtype` is what the weights are stored in; `parent` a reference such as `smollm2:v1`;
    the template hash is None for a model that has no chat template.
    """

    model: str
    version: str
    kind: VersionKind
    source: str
    parent: str | None = None
    lineage: Lineage | None = None
    dtype: str
    architecture: str
    parameters: int
    tokenizer_sha256: str
    chat_template_sha256: str | None
    golden: Golden | None = None

    @property
    def ref(self) -> str:
        """`model:version`."""
        return f"{self.model}:{self.version}"


class LedgerHead(StrictModel):
    """The newest segment of a run's sample ledger, which names the one before it by its sha256 in turn.

    `file` lies in the run's `ledger` directory; the segment holds the steps `first_step` to `last_step`,
    and all segments up to it hold `samples_total` samples.
    """

    file: str
    sha256: str
    first_step: int
    last_step: int
    samples_total: int


class CheckpointManifest(Manifest):
    """The manifest of one training checkpoint; `step` steps are complete in it.

    `ledger` is the end of the chain of segments that tells what those steps trained.
    """

    run: str
    step: int
    attempt: int
    world_size: int
    metrics: dict[str, float] = Field(default_factory=dict)
    ledger: LedgerHead | None = None


class Problem(StrictModel):
    """One way in which a directory differs from its manifest."""

    path: str
    reason: str


def scan(storage: Storage, directory: str, names: Sequence[str] | None = None) -> dict[str, FileEntry]:
    """Hash every file below `directory` but the manifest itself (or only `names`)."""
    found = storage.list_files(directory) if names is None else sorted(names)
    return {
        name: FileEntry(
            sha256=storage.sha256(f"{directory}/{name}"), size=storage.size(f"{directory}/{name}")
        )
        for name in found
        if name != MANIFEST_NAME
    }


def commit(storage: Storage, directory: str, manifest: Manifest) -> None:
    """Write the manifest last. After this the directory exists for every reader."""
    if storage.is_local:
        for folder in {storage.local_path(f"{directory}/{name}").parent for name in manifest.files}:
            fsync_dir(folder)
    storage.write_atomic(f"{directory}/{MANIFEST_NAME}", manifest.to_bytes())


ManifestT = TypeVar("ManifestT", bound=Manifest)


def read(storage: Storage, directory: str, model: type[ManifestT]) -> ManifestT:
    """Read a committed directory's manifest.

    Raises NotFoundError when there is none (the directory was never committed) and
    IntegrityError when it does not parse.
    """
    path = f"{directory}/{MANIFEST_NAME}"
    try:
        raw = storage.read_bytes(path)
    except NotFoundError:
        raise NotFoundError(
            f"`{directory}` has no {MANIFEST_NAME}: it was never committed.", code="manifest.missing"
        ) from None
    try:
        return model.model_validate(json.loads(raw))
    except (ValueError, ValidationError) as error:
        raise IntegrityError(
            f"`{path}` cannot be read: {str(error).splitlines()[0]}", code="manifest.unreadable"
        ) from None


def verify(storage: Storage, directory: str, manifest: Manifest, *, deep: bool = True) -> list[Problem]:
    """Compare a directory with its manifest; `deep` re-hashes, otherwise only sizes are read."""
    problems: list[Problem] = []
    for name, entry in sorted(manifest.files.items()):
        path = f"{directory}/{name}"
        if not storage.exists(path):
            problems.append(Problem(path=name, reason="missing"))
        elif (size := storage.size(path)) != entry.size:
            problems.append(Problem(path=name, reason=f"{size} bytes, the manifest says {entry.size}"))
        elif deep and (digest := storage.sha256(path)) != entry.sha256:
            problems.append(
                Problem(path=name, reason=f"sha256 {digest[:12]}…, the manifest says {entry.sha256[:12]}…")
            )
    return problems


def require_sound(storage: Storage, directory: str, manifest: Manifest) -> None:
    """Raise IntegrityError naming the first differing files, or return."""
    refuse(directory, verify(storage, directory, manifest))


def refuse(directory: str, problems: Sequence[Problem]) -> None:
    """Raise IntegrityError naming the first of `problems`; return when there are none."""
    if problems:
        listed = "; ".join(f"{p.path}: {p.reason}" for p in problems[:3])
        raise IntegrityError(
            f"`{directory}` differs from its manifest: {listed}.",
            code="manifest.mismatch",
            hint="Import or publish it again; nothing that is not whole is ever loaded.",
        )
