"""What a run is made from, as digests: written when it begins, and compared whenever it is resumed."""

from __future__ import annotations

import hashlib

from pydantic import ValidationError

from cluster.config import StrictModel
from cluster.errors import ConflictError, IntegrityError, NotFoundError
from cluster.manifest import VersionManifest
from train_jobs.run_files import RunFiles

_FORMER = "Bring the former file back, or train under another `run` name."


class Inputs(StrictModel):
    """Sha256 (hex) of the training data, of the base's files, and of what is evaluated, if anything is."""

    train: str
    validation: str | None
    base: str


def base_identity(manifest: VersionManifest) -> str:
    """Digest of a version's names and contents."""
    listing = "".join(f"{entry.sha256}  {name}\n" for name, entry in sorted(manifest.files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def read(files: RunFiles) -> Inputs | None:
    """What the run is made from; None before it is known.

    Raises IntegrityError `train.inputs_damaged` for a file that does not read.
    """
    try:
        return Inputs.model_validate_json(files.storage.read_bytes(files.inputs))
    except NotFoundError:
        return None
    except ValidationError:
        raise IntegrityError(
            f"`{files.inputs}` does not say what the run `{files.run}` is made from.",
            code="train.inputs_damaged",
            hint="Restore it, or remove it where data and base are those that the run began with.",
        ) from None


def settle(files: RunFiles, found: Inputs, *, has_begun: bool) -> None:
    """Hold `found` against what the run began with, or, as long as it has done nothing, write it anew.

    Raises ConflictError `train.base_changed`, `train.data_changed` or `train.validation_changed`.
    """
    began = read(files) if has_begun else None
    if began is not None:
        require_same(files.run, began, found)
    else:
        files.storage.write_atomic(files.inputs, (found.model_dump_json(indent=2) + "\n").encode())


def require_same(run: str, began: Inputs, found: Inputs) -> None:
    """Raise ConflictError for the first of them that changed, with both digests."""
    require_same_base(run, began, found.base)
    if found.train != began.train:
        raise ConflictError(
            _told(run, "training data", found.train, began.train), code="train.data_changed", hint=_FORMER
        )
    if found.validation != began.validation:
        raise ConflictError(
            _told(run, "validation data", found.validation, began.validation),
            code="train.validation_changed",
            hint=_FORMER,
        )


def require_same_base(run: str, began: Inputs, found: str) -> None:
    """The same of the base alone, which is known before anything is encoded."""
    if found != began.base:
        raise ConflictError(
            _told(run, "base model", found, began.base),
            code="train.base_changed",
            hint="Restore the version (`linnet models verify`), or train under another `run` name.",
        )


def _told(run: str, what: str, found: str | None, began: str | None) -> str:
    change = f"sha256 {_short(found)}, it began with {_short(began)}"
    return f"The {what} changed since the run `{run}` began: {change}."


def _short(digest: str | None) -> str:
    return f"{digest[:12]}…" if digest else "none"
