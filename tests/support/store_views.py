"""Looking at a local store from the outside, for tests."""

from __future__ import annotations

from pathlib import Path

from cluster.registry import ModelStore
from cluster.state import events


def told(store: ModelStore) -> list[str]:
    """Kinds of all events, oldest first."""
    with store.database.snapshot() as session:
        return [row.kind for row in events.recent(session)]


def names(directory: Path) -> list[str]:
    """Names in a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


def below(root: Path) -> set[str]:
    """Everything below a directory that may be missing."""
    return {str(path.relative_to(root)) for path in root.rglob("*")} if root.exists() else set()


def models_dir(store: ModelStore) -> Path:
    """Where a local store keeps its models."""
    return store.storage.local_path("models")
