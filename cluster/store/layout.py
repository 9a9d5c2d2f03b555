"""Where things lie below the storage root."""

from __future__ import annotations

from cluster.refs import VersionRef

MODELS = "models"
MIRROR_NAME = "aliases.json"


def model_dir(model: str) -> str:
    """The directory of all versions of a model."""
    return f"{MODELS}/{model}"


def version_dir(ref: VersionRef) -> str:
    """The directory of one version."""
    return f"{MODELS}/{ref.model}/{ref.version}"


def alias_mirror(model: str) -> str:
    """The file that repeats the model's aliases for a day on which the database is lost."""
    return f"{MODELS}/{model}/{MIRROR_NAME}"


def is_hidden(name: str) -> bool:
    """Whether a directory is unfinished or removed work rather than a model or a version."""
    return name.startswith(".")
