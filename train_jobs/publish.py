"""Publishing a finished run: its last checkpoint, or its best, as an adapter version and as a full one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cluster.config import Settings
from cluster.errors import ConflictError, IntegrityError, LinnetError, StorageError
from cluster.manifest import Golden, Lineage, VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs import checkpoint, retention
from train_jobs.checkpoint import Committed
from train_jobs.data.records import Example, Pair
from train_jobs.run_files import RunFiles
from train_jobs.spec import TrainSpec

_TASK_PROMPTS = 4
_ROWS_READ = 256
_FULL_DISK = ("no space left", "disk quota exceeded")


@dataclass(frozen=True)
class Target:
    """One version that the run becomes."""

    ref: VersionRef
    kind: VersionKind


def targets(spec: TrainSpec, base: VersionRef) -> list[Target]:
    """The versions that the spec asks for, the adapter first."""
    wanted = spec.publish
    if wanted is None:
        return []
    found = []
    if wanted.adapter_version:
        ref = VersionRef(model=base.model, version=wanted.adapter_version)
        found.append(Target(ref, VersionKind.ADAPTER))
    if wanted.version:
        found.append(Target(VersionRef(model=base.model, version=wanted.version), VersionKind.MERGED))
    return found


def missing(store: ModelStore, spec: TrainSpec, base: VersionRef) -> list[Target]:
    """Targets that are not in the store yet. Raises ConflictError for a name that something else holds."""
    left = []
    for target in targets(spec, base):
        if target.ref.version not in store.labels(target.ref.model):
            left.append(target)
            continue
        if not _is_ours(store.manifest(target.ref).lineage, spec):
            raise ConflictError(
                f"`{target.ref}` exists and did not come from the end of the run `{spec.run}`.",
                code="train.version_taken",
                hint="Choose another `publish` name; `linnet models show` lists the names that are taken.",
            )
    return left


def publish_run(settings: Settings, spec: TrainSpec, base: VersionRef) -> list[str]:
    """Publish what is missing, with golden answers; returns the references of all targets.

    Safe to repeat. Raises IntegrityError without a good checkpoint of the last step, or of the best where
    that is wanted, and StorageError `storage.full` for lack of room; a version is there whole or not at all.
    """
    store = ModelStore.open(settings)
    left = missing(store, spec, base)
    if left:
        with _scratch(settings) as scratch:
            files = RunFiles(Storage(settings.root), spec.run)
            chosen = _chosen_checkpoint(files, spec)
            trained = _fetch_weights(files, chosen, scratch)
            prompts = task_prompts(spec.data.validation) if spec.data.validation else []
            lineage = Lineage(run=spec.run, step=chosen.manifest.step, metrics=dict(chosen.manifest.metrics))
            publisher = _Publisher(store, base, lineage, trained, scratch, prompts)
            for target in left:
                publisher.publish(target)
    return [str(target.ref) for target in targets(spec, base)]


def task_prompts(path: str) -> list[str]:
    """What the user says in a few rows of a dataset, evenly spread over its beginning."""
    from train_jobs.data.reading import detect_format, iter_examples, usable

    examples: Iterator[Example | Pair] = usable(iter_examples(path, detect_format(path)), [])
    users = (next((m.content for m in e.messages if m.role == "user"), None) for e in examples)
    texts = list(islice(filter(None, users), _ROWS_READ))
    return texts[:: max(1, len(texts) // _TASK_PROMPTS)][:_TASK_PROMPTS]


@dataclass(frozen=True)
class _Publisher:
    """What all targets of a run have in common; `trained` holds its checkpoint's weights."""

    store: ModelStore
    base: VersionRef
    lineage: Lineage
    trained: Path
    scratch: Path
    prompts: list[str]

    def publish(self, target: Target) -> None:
        source, answers = self._prepare(target.kind)
        self.store.publish(
            source,
            target.ref,
            kind=target.kind,
            source_label=f"run {self.lineage.run}",
            parent=str(self.base),
            lineage=self.lineage,
            golden=answers,
        )

    def _prepare(self, kind: VersionKind) -> tuple[Path, Golden]:
        from train_jobs import golden, merge, weights

        base_dir = self.store.local_dir(self.base)
        if kind is VersionKind.ADAPTER:
            return self.trained, golden.compute(base_dir, adapter_dir=self.trained, prompts=self.prompts)
        full, dtype = self.scratch / "full", self.store.manifest(self.base).dtype
        every = self.trained / weights.MODEL_WEIGHTS
        if every.exists():
            merge.fill(base_dir, every, full, dtype=dtype)
        else:
            merge.merge(base_dir, self.trained, full, base=str(self.base), dtype=dtype)
        return full, golden.compute(full, prompts=self.prompts)


def _is_ours(lineage: Lineage | None, spec: TrainSpec) -> bool:
    """Whether a version came from the end of this run, or its best step: either may be any step."""
    if lineage is None or lineage.run != spec.run:
        return False
    may_be_any = spec.early_stopping_patience is not None or spec.load_best_model_at_end
    return lineage.step == spec.max_steps or may_be_any


def _chosen_checkpoint(files: RunFiles, spec: TrainSpec) -> Committed:
    last = _last_checkpoint(files, spec)
    best = retention.best_step(files) if spec.load_best_model_at_end else None
    return last if best in (None, last.manifest.step) else checkpoint.at_step(files, best)


def _last_checkpoint(files: RunFiles, spec: TrainSpec) -> Committed:
    found = checkpoint.discover(files)
    may_end_early = spec.early_stopping_patience is not None and not found.skipped
    if found.newest is not None and (found.newest.manifest.step == spec.max_steps or may_end_early):
        return found.newest
    raise IntegrityError(
        " ".join([f"The run `{files.run}` has no good checkpoint of its last step.", *found.skipped]),
        code="train.no_checkpoint",
        hint=f"`linnet train run` of the same file trains the missing steps of `{files.run}` again.",
    )


def _fetch_weights(files: RunFiles, chosen: Committed, scratch: Path) -> Path:
    """The adapter, or all weights, of a checkpoint as a directory that PEFT or transformers can load."""
    from train_jobs.weights import ADAPTER_FILES, MODEL_FILES

    directory = scratch / "trained"
    directory.mkdir()
    for name in (*ADAPTER_FILES, *MODEL_FILES):
        if name in chosen.manifest.files:
            (directory / name).write_bytes(files.storage.read_bytes(f"{chosen.directory}/{name}"))
    return directory


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    """A directory below the home that is gone afterwards; a full disk there is told as such."""
    parent = settings.home / "tmp"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="publish-", dir=parent) as directory:
            yield Path(directory)
    except LinnetError:
        raise
    except Exception as error:
        # safetensors and torch raise kinds of their own around the system's message.
        if any(words in str(error).lower() for words in _FULL_DISK):
            raise StorageError(
                f"The disk below {settings.home} is full (preparing a version).",
                code="storage.full",
                hint="Free some room (`linnet models gc`) and run the same command again.",
                retryable=True,
            ) from error
        raise
