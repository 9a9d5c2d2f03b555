"""Prepared datasets: Parquet splits under a manifest, written beside their place and renamed into it."""

from __future__ import annotations

import fcntl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from cluster import manifest
from cluster.config import Settings, StrictModel
from cluster.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    LinnetError,
    NotFoundError,
    StorageError,
)
from cluster.manifest import Manifest
from cluster.packages import download_package
from cluster.storage import Storage
from train_jobs.data import sentiment
from train_jobs.data.built_in import BuiltIn, parquet
from train_jobs.data.sentiment import Snippet

HELD_OUT_PER_LABEL = 200
SEED = 2014


class SplitSummary(StrictModel):
    """Rows of one split, and how many carry each label."""

    rows: int
    labels: dict[str, int]


class Recipe(StrictModel):
    """What a prepared dataset follows from; the same recipe gives the same files."""

    name: str = BuiltIn.ICWSM2014.value
    source: str = sentiment.CITATION
    license: str = sentiment.LICENSE
    system_message: str = sentiment.INSTRUCTION
    minimum_rating: float = sentiment.MINIMUM_RATING
    seed: int = SEED
    held_out_per_label: int = Field(default=HELD_OUT_PER_LABEL, ge=1)


class DatasetManifest(Manifest):
    """The manifest of a prepared dataset; split `train` is the file `train.parquet`."""

    recipe: Recipe
    splits: dict[str, SplitSummary]


class Prepared(StrictModel):
    """A dataset in its place; `changed` is False when it was there already."""

    path: Path
    changed: bool
    manifest: DatasetManifest


def data_root() -> Path:
    """Where prepared datasets are kept unless another place is named."""
    return Settings.load().home / "data"


def list_prepared(root: Path) -> tuple[list[tuple[Path, DatasetManifest]], list[LinnetError]]:
    """The committed datasets directly below `root`, and the errors of those that cannot be read."""
    storage = Storage(str(root))
    found, broken = [], []
    for name in storage.list_dirs(""):
        if name.startswith(".") or not storage.exists(f"{name}/{manifest.MANIFEST_NAME}"):
            continue
        try:
            found.append((root / name, manifest.read(storage, name, DatasetManifest)))
        except LinnetError as error:
            broken.append(error)
    return found, broken


def find_prepared(directory: Path, recipe: Recipe) -> DatasetManifest | None:
    """The manifest of `directory` when it holds this very recipe and every file is whole."""
    storage, name = Storage(str(directory.parent)), directory.name
    try:
        found = manifest.read(storage, name, DatasetManifest)
    except (NotFoundError, IntegrityError):
        return None
    return found if found.recipe == recipe and not manifest.verify(storage, name, found) else None


def prepare(
    dataset: BuiltIn, out_dir: str | Path, *, seed: int = SEED, held_out_per_label: int = HELD_OUT_PER_LABEL
) -> Prepared:
    """Build train, validation and test Parquet of a built-in dataset below `out_dir`.

    The directory appears whole or not at all. A dataset of another recipe or with a damaged
    file is replaced; anything else at `out_dir` is left alone.

    Raises ConflictError when `out_dir` holds something else, ConfigError when there are too few
    snippets to hold so many out, StorageError when it cannot be written, and what
    `download_package` raises.
    """
    directory = Path(out_dir).expanduser().resolve()
    recipe = Recipe(name=dataset.value, seed=seed, held_out_per_label=held_out_per_label)
    with _sole_writer(directory):
        if found := find_prepared(directory, recipe):
            return Prepared(path=directory, changed=False, manifest=found)
        require_replaceable(directory)
        package = download_package(sentiment.REQUIREMENT, source_only=True)
        snippets = sentiment.clear_and_distinct(sentiment.read_snippets(package))
        splits = sentiment.split(snippets, seed=seed, held_out_per_label=held_out_per_label)
        _require_training_rows(splits, held_out_per_label)
        written = _write(directory, recipe, splits)
    return Prepared(path=directory, changed=True, manifest=written)


def require_replaceable(directory: Path) -> None:
    """Raise ConflictError unless `directory` is absent, empty or a dataset that was prepared here."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        manifest.read(Storage(str(directory.parent)), directory.name, DatasetManifest)
    except LinnetError:
        raise ConflictError(
            f"{directory} holds something that `data prepare` did not write.",
            code="data.occupied",
            hint="Name another directory with --out, or move that one away.",
        ) from None


def _require_training_rows(splits: dict[str, list[Snippet]], held_out_per_label: int) -> None:
    if len({snippet.label for snippet in splits["train"]}) < len(sentiment.LABELS):
        raise ConfigError(
            f"Holding out {held_out_per_label} of each label twice leaves too little to train on.",
            code="data.held_out",
            hint="Hold fewer out.",
        )


@contextmanager
def _sole_writer(directory: Path) -> Iterator[None]:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = (directory.parent / f".{directory.name}.lock").open("w")
    except OSError as error:
        raise StorageError(
            f"{directory.parent} cannot be written: {error.strerror}.",
            code="storage.denied",
            hint="Name another directory with --out.",
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(directory: Path, recipe: Recipe, splits: dict[str, list[Snippet]]) -> DatasetManifest:
    storage = Storage(str(directory.parent))
    staged, old = f".{directory.name}.staged", f".{directory.name}.old"
    try:
        for leftover in (staged, old):
            storage.delete_dir(leftover)
        for name, snippets in splits.items():
            metadata = {**recipe.model_dump(mode="json"), "split": name}
            table = parquet(BuiltIn(recipe.name), snippets, metadata)
            storage.write_atomic(f"{staged}/{name}.parquet", table)
        written = DatasetManifest(
            files=manifest.scan(storage, staged),
            recipe=recipe,
            splits={name: _summary(snippets) for name, snippets in splits.items()},
        )
        manifest.commit(storage, staged, written)
        if directory.exists():
            storage.rename(directory.name, old)
        storage.rename(staged, directory.name)
        return written
    finally:
        storage.delete_dir(staged)
        storage.delete_dir(old)


def _summary(snippets: list[Snippet]) -> SplitSummary:
    counts = Counter(snippet.label for snippet in snippets)
    return SplitSummary(rows=len(snippets), labels=dict(sorted(counts.items())))
