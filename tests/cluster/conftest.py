"""Stores and roots for the tests of the control plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.manifest import VersionKind, VersionManifest
from cluster.refs import VersionRef, parse_version_ref
from cluster.registry import ModelStore
from cluster.state.database import open_database
from tests.support.disks import small_disks
from tests.support.s3 import s3_root
from tests.support.version_files import write_model


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    for name in ("LINNET_ROOT", "LINNET_STATE_URL"):
        monkeypatch.delenv(name, raising=False)
    yield Settings.load()
    open_database.cache_clear()


@pytest.fixture
def store(settings: Settings) -> Iterator[ModelStore]:
    opened = ModelStore.open(settings)
    yield opened
    opened.database.dispose()


@pytest.fixture
def s3_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_root(monkeypatch) as url:
        yield url


@pytest.fixture
def s3_store(settings: Settings, s3_url: str) -> Iterator[ModelStore]:
    opened = ModelStore.open(settings.model_copy(update={"root": s3_url}))
    yield opened
    opened.database.dispose()


Publish = Callable[..., VersionManifest]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Publish a hand-written base model: `publish(store, "m:v1", seed=1)`."""

    def run(store: ModelStore, ref: str, *, seed: int = 0, rows: int = 64) -> VersionManifest:
        source = write_model(tmp_path / f"source-{seed}-{rows}", seed=seed, rows=rows)
        target: VersionRef = parse_version_ref(ref)
        return store.publish(source, target, kind=VersionKind.BASE, source_label=f"test {seed}")

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    with small_disks(tmp_path) as mount:
        yield mount
