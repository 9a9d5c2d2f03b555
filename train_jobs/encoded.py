"""The cache of encoded datasets: made once below the root, then mapped by every worker of every run.

`<root>/encoded/<key>/` exists once its manifest does (rule 3). The key is a digest of all that its bytes
follow from, so that whoever makes it anew makes the same. A remote root's is brought to each machine once.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from cluster import manifest as manifests
from cluster.config import Settings, StrictModel
from cluster.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from cluster.manifest import Manifest, VersionManifest
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from cluster.store.staging import removed_name, staging_name
from train_jobs.data.reading import fingerprint
from train_jobs.data.tables import data_files
from train_jobs.dataset import Samples, map_dataset
from train_jobs.encoded_uses import ROOT, directory_of, note_use, trim_copies
from train_jobs.encoding import DROPPED, PACK_PREFIX, Contents, DroppedRows, Longest, Way, encode_into
from train_jobs.spec import TrainSpec

FORMAT_VERSION = 2
_LOG = logging.getLogger(__name__)
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".gguf")
# Both have a say in what a row becomes.
_LIBRARIES = ("transformers", "tokenizers")


class Recipe(StrictModel):
    """All that the bytes of an encoded dataset follow from; digests are sha256 in hex.

    `names` is that of the data files' names, which rows without an id are called by; `tokenizer` that of
    the base's files without its weights.
    """

    format_version: int = FORMAT_VERSION
    fingerprint: str
    names: str
    tokenizer: str
    libraries: tuple[str, ...]
    way: Way

    @property
    def key(self) -> str:
        """What its directory is called."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class EncodedManifest(Manifest):
    """The manifest of an encoded dataset."""

    recipe: Recipe
    contents: Contents

    @property
    def fingerprint(self) -> str:
        """What a run that goes on must find unchanged: the data, and with packing which rows are together."""
        packs = [self.files[name].sha256 for name in sorted(self.files) if name.startswith(PACK_PREFIX)]
        return _digest(self.recipe.fingerprint, *packs) if packs else self.recipe.fingerprint


class EncodedData(StrictModel):
    """What a driver hands to workers in place of the data: `samples` of them, of `rows`, under `key`.

    `fingerprint` is what a run that goes on must find unchanged.
    """

    key: str
    fingerprint: str
    rows: int
    samples: int
    longest: Longest
    dropped: dict[str, DroppedRows]

    @property
    def dropped_file(self) -> str:
        """Where every row that is not used is named with its reason, relative to the root."""
        return f"{directory_of(self.key)}/{DROPPED}"


def prepare(
    spec: TrainSpec, settings: Settings, base: VersionRef, path: str, *, packing: bool
) -> EncodedData:
    """Encode the data at `path` for the run `spec`, unless a sound encoding is there; packed with `packing`.

    Raises what `encode_into` raises, ConflictError `data.changing` when the files change meanwhile, and
    StorageError.
    """
    store, before = ModelStore.open(settings), _states(path)
    seed = spec.seed if packing else None
    recipe = Recipe(
        fingerprint=fingerprint(path),
        names=_digest(*(file.name for file in data_files(path))),
        tokenizer=_tokenizer_identity(store.manifest(base)),
        libraries=tuple(f"{name}=={version(name)}" for name in _LIBRARIES),
        way=Way(method=spec.method, max_length=spec.max_length, packing_seed=seed),
    )
    shelf = _Shelf(settings)
    note_use(shelf.storage, recipe.key, spec.run)
    found = shelf.find(recipe)
    if found is None:
        found = shelf.make(recipe, path, store.local_dir(base), before)
    told = found.contents
    return EncodedData(
        key=recipe.key,
        fingerprint=found.fingerprint,
        rows=told.rows,
        samples=told.samples,
        longest=told.longest,
        dropped=told.dropped,
    )


def open_encoded(encoded: EncodedData, settings: Settings) -> Samples:
    """Map an encoded dataset, brought to this machine first where the root is remote.

    Raises NotFoundError `data.encoding_gone` and IntegrityError when it is not there or not whole.
    """
    return _Shelf(settings).open(encoded.key)


class _Shelf:
    """A root's encoded datasets, and where this machine maps them from."""

    def __init__(self, settings: Settings) -> None:
        self.storage = Storage(settings.root)
        remote = settings.home / "cache" / hashlib.sha256(self.storage.url.encode()).hexdigest()[:12]
        self.here = self.storage if self.storage.is_local else Storage(str(remote))

    def find(self, recipe: Recipe) -> EncodedManifest | None:
        """The manifest of a sound one, every byte of it read; None when it has to be made."""
        try:
            _examined(self.storage, recipe.key, deep=False)
            self._fetch(recipe.key)
            return _examined(self.here, recipe.key, deep=True)
        except NotFoundError:
            return None
        except IntegrityError as error:
            _LOG.warning("encoding again: %s", error.message)
            return None

    def open(self, key: str) -> Samples:
        self._fetch(key)
        found = _examined(self.here, key, deep=False)
        place = self.here.local_path(directory_of(key))
        return map_dataset(place, found.recipe.way.method, found.fingerprint)

    def make(self, recipe: Recipe, path: str, tokenizer_dir: Path, before: list[object]) -> EncodedManifest:
        """Encode aside and put it in place; who finds that another was quicker takes that one's."""
        staging = f"{ROOT}/{staging_name(recipe.key)}"
        self.here.make_dirs(staging)
        try:
            with _full_disk_told(self.here):
                contents = encode_into(self.here.local_path(staging), path, tokenizer_dir, recipe.way)
            if _states(path) != before:
                raise ConflictError(
                    f"`{path}` changed while it was read.",
                    code="data.changing",
                    hint="Run the same command again once nothing writes there.",
                )
            files = manifests.scan(self.here, staging)
            made = EncodedManifest(files=files, recipe=recipe, contents=contents)
            manifests.commit(self.here, staging, made)
            if not self.storage.is_local:
                self._upload(staging, recipe.key, made)
            self._put_in_place(staging, recipe.key)
            return made
        finally:
            self.here.delete_dir(staging)

    def _fetch(self, key: str) -> None:
        """Bring it to this machine, once for all its processes."""
        if self.storage.is_local:
            return
        with self._locked():
            try:
                _examined(self.here, key, deep=False)
                return
            except (NotFoundError, IntegrityError):
                staging = f"{ROOT}/{staging_name(key)}"
            try:
                # The manifest is read first: what is brought must be what it says.
                told = _read(self.storage, key)
                self.storage.download_dir(directory_of(key), self.here.local_path(staging))
                manifests.require_sound(self.here, staging, told)
                self._replace(staging, key)
                trim_copies(self.here)
            finally:
                self.here.delete_dir(staging)

    def _upload(self, staging: str, key: str, made: EncodedManifest) -> None:
        for name in made.files:
            source = self.here.local_path(f"{staging}/{name}")
            self.storage.upload_file(source, f"{directory_of(key)}/{name}")
        manifests.commit(self.storage, directory_of(key), made)

    def _put_in_place(self, staging: str, key: str) -> None:
        with self._locked():
            try:
                _examined(self.here, key, deep=True)
            except (NotFoundError, IntegrityError):
                self._replace(staging, key)

    def _replace(self, staging: str, key: str) -> None:
        """What is mapped already stays mapped: a removed file lives for as long as that."""
        removed = f"{ROOT}/{removed_name(key)}"
        if self.here.exists(directory_of(key)):
            self.here.rename(directory_of(key), removed)
        self.here.rename(staging, directory_of(key))
        self.here.delete_dir(removed)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.here.local_path(f"{ROOT}/.lock")
        self.here.make_dirs(ROOT)
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _examined(here: Storage, key: str, *, deep: bool) -> EncodedManifest:
    """The manifest if the files fit it: their sizes, and with `deep` their digests too."""
    found = _read(here, key)
    problems = manifests.verify(here, directory_of(key), found, deep=deep)
    if problems:
        raise _damaged(key, f"{problems[0].path}: {problems[0].reason}")
    return found


def _read(storage: Storage, key: str) -> EncodedManifest:
    try:
        found = manifests.read(storage, directory_of(key), EncodedManifest)
    except IntegrityError as error:
        raise _damaged(key, error.message) from None
    except NotFoundError:
        raise NotFoundError(
            f"The encoded dataset `{directory_of(key)}` is not below {storage.url}.",
            code="data.encoding_gone",
            hint="Running the same command again makes it anew.",
        ) from None
    if found.recipe.key != key:
        raise _damaged(key, f"its manifest is of another one, {found.recipe.key[:12]}…")
    return found


def _damaged(key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"The encoded dataset `{directory_of(key)}` is damaged: {why}.",
        code="data.encoding_damaged",
        hint="Running the same command again makes it anew.",
    )


def _tokenizer_identity(base: VersionManifest) -> str:
    names = sorted(name for name in base.files if not name.endswith(_WEIGHTS))
    return _digest(*(f"{name} {base.files[name].sha256}" for name in names))


def _states(path: str) -> list[object]:
    """Size and last change of each data file."""
    return [(file, stat.st_size, stat.st_mtime_ns) for file in data_files(path) for stat in [file.stat()]]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@contextmanager
def _full_disk_told(here: Storage) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(
            f"The disk below {here.url} is full (encoding a dataset).",
            code="storage.full",
            hint="Free some room (`linnet models gc`) and run the same command again.",
            retryable=True,
        ) from error
