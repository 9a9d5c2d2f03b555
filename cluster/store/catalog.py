"""Reading the store: committed models and versions, their manifests, and whether the bytes still agree."""

from __future__ import annotations

import logging

from cluster import manifest as manifests
from cluster.errors import IntegrityError, LinnetError, NotFoundError, did_you_mean, one_of
from cluster.manifest import MANIFEST_NAME, Problem, VersionManifest
from cluster.refs import VersionRef
from cluster.storage import Storage
from cluster.store.layout import MODELS, is_hidden, model_dir, version_dir

_LOG = logging.getLogger(__name__)


class Catalog:
    """Committed versions below one storage root."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def models(self) -> list[str]:
        """Models with at least one committed version."""
        names = (name for name in self.storage.list_dirs(MODELS) if not is_hidden(name))
        return [name for name in names if self.labels(name)]

    def labels(self, model: str) -> list[str]:
        """Labels of the committed versions of a model, sorted."""
        found = self.storage.list_dirs(model_dir(model))
        return [label for label in found if not is_hidden(label) and self._is_committed(model, label)]

    def has(self, ref: VersionRef) -> bool:
        """Whether the version is committed."""
        return self._is_committed(ref.model, ref.version)

    def manifest(self, ref: VersionRef) -> VersionManifest:
        """The version's manifest. Raises NotFoundError, or IntegrityError when it does not parse."""
        if not self.has(ref):
            raise self.unknown(ref)
        return manifests.read(self.storage, version_dir(ref), VersionManifest)

    def manifests(self, model: str | None = None) -> list[VersionManifest]:
        """Manifests by model and age; one that does not parse is skipped with a warning."""
        found: list[VersionManifest] = []
        for name in self.models() if model is None else [model]:
            for label in self.labels(name):
                ref = VersionRef(model=name, version=label)
                try:
                    found.append(self.manifest(ref))
                except LinnetError as error:
                    _LOG.warning("skipped %s: %s", ref, error.message)
        return sorted(found, key=lambda m: (m.model, m.created_at, m.version))

    def verify(self, ref: VersionRef, *, deep: bool) -> list[Problem]:
        """Every way in which the stored files differ from the manifest. Raises NotFoundError."""
        try:
            manifest = self.manifest(ref)
        except IntegrityError as error:
            return [Problem(path=MANIFEST_NAME, reason=error.message)]
        return compare(self.storage, version_dir(ref), manifest, deep=deep)

    def unknown(self, ref: VersionRef) -> NotFoundError:
        """The error for a version that is not there, with the nearest one that is."""
        labels = self.labels(ref.model)
        if not labels:
            return self.unknown_model(ref.model)
        return NotFoundError(
            f"There is no version `{ref}`.{did_you_mean(ref.version, labels)}",
            code="models.unknown_version",
            hint=f"Versions of {ref.model}: {one_of(labels)}.",
        )

    def unknown_model(self, model: str) -> NotFoundError:
        """The error for a model without any version, with the nearest one that has some."""
        known = self.models()
        return NotFoundError(
            f"There is no model `{model}` below {self.storage.url}.{did_you_mean(model, known)}",
            code="models.unknown_model",
            hint=f"Models: {one_of(known)}. `linnet models import` adds one.",
        )

    def _is_committed(self, model: str, label: str) -> bool:
        return self.storage.exists(f"{model_dir(model)}/{label}/{MANIFEST_NAME}")


def compare(storage: Storage, directory: str, manifest: VersionManifest, *, deep: bool) -> list[Problem]:
    """Differences between a directory and its manifest, files that the manifest does not know included."""
    problems = manifests.verify(storage, directory, manifest, deep=deep)
    strangers = set(storage.list_files(directory)) - set(manifest.files) - {MANIFEST_NAME}
    return problems + [Problem(path=name, reason="not in the manifest") for name in sorted(strangers)]
