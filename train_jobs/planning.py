"""What is to be done for a spec: checked against the store and against the run that it may resume."""

from __future__ import annotations

from pathlib import Path

from cluster.config import Settings, StrictModel
from cluster.errors import ConfigError, NotFoundError
from cluster.manifest import VersionKind
from cluster.refs import AliasRef, VersionRef, parse_ref, parse_version_ref
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs import checkpoint, ending, inputs, preflight, publish
from train_jobs.base_config import read_config
from train_jobs.ending import Ending
from train_jobs.run_files import RunFiles, read_lines
from train_jobs.spec import TrainSpec
from train_jobs.spec_files import as_resumed, parse_stored_spec, require_same
from train_jobs.tracking import require_installed


class Plan(StrictModel):
    """A spec that was found fit to run; `spec` names its base exactly, `missing` is not published yet.

    `has_begun`: a step or a checkpoint of the run is there, so that it has to go on as it is. `end` is how
    it ended, None while a step is missing.
    """

    spec: TrainSpec
    base: VersionRef
    has_begun: bool
    resume_step: int
    end: Ending | None
    targets: list[str]
    missing: list[str]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train or to publish."""
        return self.end is not None and not self.missing


def plan(spec: TrainSpec, settings: Settings) -> Plan:
    """Check a spec against the store and against the run it may resume; changes nothing.

    Raises NotFoundError for an unknown model or missing data, ConfigError for a base that cannot be
    trained, ConflictError for a changed spec, a changed base or a version name that is taken.
    """
    store, files = ModelStore.open(settings), RunFiles(Storage(settings.root), spec.run)
    steps = checkpoint.committed_steps(files)
    has_begun = bool(steps) or _has_done_a_step(files)
    stored = _stored(files) if has_begun else None
    base = _base(store, spec.model, stored)
    _check_base(store, base, spec)
    require_installed(spec)
    _require_data(spec)
    exact = spec.model_copy(update={"model": str(base)})
    if stored is not None:
        exact = as_resumed(exact, stored)
        require_same(stored, exact)
    if has_begun:
        _require_same_base(store, base, files)
    left = publish.missing(store, exact, base)
    return Plan(
        spec=exact,
        base=base,
        has_begun=has_begun,
        resume_step=max(steps, default=0),
        end=_end(files, exact, max(steps, default=0)),
        targets=[str(target.ref) for target in publish.targets(exact, base)],
        missing=[str(target.ref) for target in left],
    )


def _has_done_a_step(files: RunFiles) -> bool:
    return any(read_lines(files.storage, journal) for journal in (files.metrics, files.witness))


def _stored(files: RunFiles) -> TrainSpec | None:
    if not files.storage.exists(files.spec):
        return None
    return parse_stored_spec(files.storage.read_bytes(files.spec).decode(), files.spec)


def _base(store: ModelStore, given: str, stored: TrainSpec | None) -> VersionRef:
    """The version to start from; an alias goes on meaning what it meant when the run began."""
    asked = parse_ref(given)
    if stored is not None and isinstance(asked, AliasRef):
        began = parse_version_ref(stored.model)
        if began.model == asked.model:
            return began
    return store.resolve(given)


def _check_base(store: ModelStore, base: VersionRef, spec: TrainSpec) -> None:
    manifest = store.manifest(base)
    if manifest.kind not in (VersionKind.BASE, VersionKind.MERGED):
        raise ConfigError(
            f"`{base}` is of the kind {manifest.kind.value}, which nothing can be trained on.",
            code="train.base_kind",
            hint=f"Accepted kinds: base, merged. `linnet models show {base.model}` lists the versions.",
        )
    preflight.check_base(spec, manifest.dtype, read_config(store.storage, base))


def _require_same_base(store: ModelStore, base: VersionRef, files: RunFiles) -> None:
    began = inputs.read(files)
    if began is not None:
        inputs.require_same_base(files.run, began, inputs.base_identity(store.manifest(base)))


def _require_data(spec: TrainSpec) -> None:
    for path in filter(None, (spec.data.train, spec.data.validation)):
        if not Path(path).exists():
            raise NotFoundError(
                f"There is no training data at `{path}`.",
                code="train.no_data",
                hint="`linnet data prepare icwsm2014` (or icwsm2014-preferences) builds the examples' data.",
            )


def _end(files: RunFiles, spec: TrainSpec, committed: int) -> Ending | None:
    """How the run ended, if the checkpoint of that step is there; a driver may have had no time to say it."""
    if 0 < spec.max_steps <= committed:
        return ending.at_step(spec.max_steps, spec)
    told = ending.read(files)
    return told if told is not None and told.step <= committed else None
