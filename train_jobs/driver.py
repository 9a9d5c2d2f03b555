"""Driving a run from spec to published versions; repeating it resumes wherever it stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cluster import runtime
from cluster.config import Settings, StrictModel
from cluster.errors import ConfigError, InterruptedRunError, LinnetError, NotFoundError
from cluster.manifest import VersionKind
from cluster.recovery import receipts
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.state.database import Database, open_database
from cluster.storage import Storage
from train_jobs import checkpoint, encoded_uses, preflight, publish, runs, timeline
from train_jobs.progress import Follower, Reporter
from train_jobs.ray_errors import brief, get, unwrap
from train_jobs.run_files import RunFiles
from train_jobs.runs import RunStatus
from train_jobs.spec import TrainSpec
from train_jobs.spec_files import as_resumed, parse_stored_spec, require_same
from train_jobs.tracking import require_installed

if TYPE_CHECKING:
    from train_jobs.encoded import EncodedData


class RunResult(StrictModel):
    """How a run ended. `trained` is False when it had been finished before."""

    run: str
    trained: bool
    step: int
    published: list[str]
    directory: str


class Plan(StrictModel):
    """A spec that was found fit to run; `spec` names its base exactly, `missing` is not published yet."""

    spec: TrainSpec
    base: VersionRef
    resume_step: int
    targets: list[str]
    missing: list[str]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to train or to publish."""
        return 0 < self.spec.max_steps <= self.resume_step and not self.missing


def plan(spec: TrainSpec, settings: Settings) -> Plan:
    """Check a spec against the store and against the run it may resume; changes nothing.

    Raises NotFoundError for an unknown model or missing data, ConfigError for a base that cannot be
    trained, ConflictError for a changed spec or a version name that is taken.
    """
    store = ModelStore.open(settings)
    base = store.resolve(spec.model)
    kind = store.manifest(base).kind
    if kind not in (VersionKind.BASE, VersionKind.MERGED):
        raise ConfigError(
            f"`{base}` is of the kind {kind.value}, which nothing can be trained on.",
            code="train.base_kind",
            hint=f"Accepted kinds: base, merged. `linnet models show {base.model}` lists the versions.",
        )
    require_installed(spec)
    for path in filter(None, (spec.data.train, spec.data.validation)):
        if not Path(path).exists():
            raise NotFoundError(
                f"There is no training data at `{path}`.",
                code="train.no_data",
                hint="`linnet data prepare icwsm2014` (or icwsm2014-preferences) builds the examples' data.",
            )
    exact = spec.model_copy(update={"model": str(base)})
    files = RunFiles(Storage(settings.root), spec.run)
    if files.storage.exists(files.spec):
        stored = parse_stored_spec(files.storage.read_bytes(files.spec).decode(), files.spec)
        exact = as_resumed(exact, stored)
        require_same(stored, exact)
    steps = checkpoint.committed_steps(files)
    left = publish.missing(store, exact, base)
    return Plan(
        spec=exact,
        base=base,
        resume_step=max(steps, default=0),
        targets=[str(target.ref) for target in publish.targets(exact, base)],
        missing=[str(target.ref) for target in left],
    )


def train(spec: TrainSpec, settings: Settings, *, stream: TextIO | None = None) -> RunResult:
    """Train and publish what the spec asks for and is not there yet.

    Besides what `plan` and `fit.fit` raise: ConflictError while another driver trains this run,
    InterruptedRunError on SIGINT, SIGTERM and `linnet train cancel`; then the run can be resumed.
    """
    todo = plan(spec, settings)
    files = RunFiles(Storage(settings.root), spec.run)
    database = open_database(settings.state_url)
    if todo.is_done:
        Reporter(stream).say(
            f"The run {spec.run} is finished: all {todo.spec.max_steps} steps, and published."
        )
        if _is_recorded_as_finished(database, spec.run):
            return _result(todo, files)
    launch = uuid.uuid4().hex
    with database.transaction() as session:
        runs.claim(
            session,
            spec.run,
            driver=runs.this_driver(launch),
            spec_sha256=todo.spec.sha256,
            total_steps=todo.spec.max_steps,
        )
    with (
        _told_to_stop(),
        _driver_log(files) as log,
        _recorded(database, files, log),
        # Ray prints the raylet's complaints to stdout, which is for results.
        contextlib.redirect_stdout(log or sys.stderr),
    ):
        files.storage.write_atomic(files.spec, todo.spec.to_yaml().encode())
        if not todo.is_done:
            todo = _Drive(todo, settings, files, database, launch, Reporter(stream, log)).carry_out()
        with database.transaction() as session:
            runs.require(session, spec.run).published = todo.targets
    return _result(todo, files)


@dataclass(frozen=True)
class _Drive:
    """One launch of a run."""

    todo: Plan
    settings: Settings
    files: RunFiles
    database: Database
    launch: str
    reporter: Reporter

    def carry_out(self) -> Plan:
        """Train what is missing, then publish what is missing; returns the plan with its steps known."""
        from train_jobs import fit

        fit.set_environment()
        runtime.attach(self.settings)
        # Ray has put its own handler of SIGTERM, which exits at once.
        _listen()
        base = ModelStore.open(self.settings).manifest(self.todo.base)
        fit.require_room(self.todo.spec, base.parameters)
        drive = self if self._is_trained() else self._train()
        if drive.todo.missing:
            drive._publish()
        return drive.todo

    def _is_trained(self) -> bool:
        if not self.todo.spec.max_steps:
            return False
        newest = checkpoint.discover(self.files).newest
        return newest is not None and newest.manifest.step >= self.todo.spec.max_steps

    def _train(self) -> _Drive:
        spec = self.todo.spec
        self.reporter.say(f"{spec.run}: encoding {spec.data.train}")
        dataset = self._encoded(spec.data.train, packing=spec.packing)
        validation = None
        if spec.eval_steps and spec.data.validation:
            validation = self._encoded(spec.data.validation, packing=False)
        preflight.check_batch(spec, dataset.samples)
        drive = self._with_steps(dataset.samples)
        drive._fit(dataset, validation)
        return drive

    def _with_steps(self, samples: int) -> _Drive:
        """The same launch with its number of steps known, and written down."""
        spec = self.todo.spec.with_steps(samples)
        if spec == self.todo.spec:
            return self
        self.reporter.say(f"{spec.run}: {spec.num_train_epochs:g} epochs are {spec.max_steps} steps")
        self.files.storage.write_atomic(self.files.spec, spec.to_yaml().encode())
        with self.database.transaction() as session:
            row = runs.require(session, spec.run)
            row.total_steps, row.spec_sha256 = spec.max_steps, spec.sha256
        return replace(self, todo=self.todo.model_copy(update={"spec": spec}))

    def _fit(self, dataset: EncodedData, validation: EncodedData | None) -> None:
        from train_jobs import fit
        from train_jobs.entry import WorkerJob
        from train_jobs.formation import coordinator

        todo, spec = self.todo, self.todo.spec
        job = WorkerJob(
            spec=spec,
            settings=self.settings,
            base=todo.base,
            coordinator=coordinator.create(spec, self.settings, self.launch, todo.resume_step, dataset),
            dataset=dataset,
            validation=validation,
        )
        try:
            with Follower(
                self.files, self.reporter, total=spec.max_steps, every=spec.logging_steps, tick=self._renew
            ):
                fit.fit(job)
        finally:
            draw(self.files)

    def _encoded(self, path: str, *, packing: bool) -> EncodedData:
        """The data as files that all workers map, made unless they are there."""
        from train_jobs import encoding_task

        found = encoding_task.encode(self.todo.spec, self.settings, self.todo.base, path, packing=packing)
        for sentence in encoding_task.sentences(found):
            self.reporter.say(sentence)
        with self.database.snapshot() as session:
            active = runs.active_names(session)
        encoded_uses.prune(self.files.storage, active)
        return found

    def _publish(self) -> None:
        import ray

        self.reporter.say(f"publishing {', '.join(self.todo.missing)}")
        self._set_status(RunStatus.PUBLISHING, "trained")
        task = ray.remote(num_cpus=_publishing_cpus(self.todo.spec))(publish.publish_run)
        get(task.remote(self.settings, self.todo.spec, self.todo.base))

    def _set_status(self, status: RunStatus, reason: str) -> None:
        with self.database.transaction() as session:
            runs.set_status(session, runs.require(session, self.todo.spec.run), status, reason)

    def _renew(self, step: int, attempts: int) -> None:
        with self.database.transaction() as session:
            status = runs.renew(session, self.todo.spec.run, step=step, attempts=attempts)
        if status is RunStatus.CANCELLING:
            os.kill(os.getpid(), signal.SIGTERM)


def _publishing_cpus(spec: TrainSpec) -> float:
    """What the workers had, as far as one node can give it."""
    import ray

    largest: float = max(node["Resources"].get("CPU", 1.0) for node in ray.nodes() if node["Alive"])
    return min(float(spec.slots * spec.threads_per_worker), largest)


def draw(files: RunFiles) -> None:
    """Write the loss plot from the journals, if there is a step to show."""
    steps = files.read_steps()
    if not steps:
        return
    from train_jobs.plot import loss_png

    told = timeline.summarize(files.read_attempts(), steps)
    kept = receipts.read(files.storage, files.receipts)
    files.storage.write_atomic(files.plot, loss_png(files.run, steps, told, kept))


@contextlib.contextmanager
def _recorded(database: Database, files: RunFiles, log: TextIO | None) -> Iterator[None]:
    """Write how the run ended, whichever way it leaves the block."""
    try:
        yield
    except (InterruptedRunError, KeyboardInterrupt) as error:
        status = _end(database, files, RunStatus.INTERRUPTED, "interrupted")
        raise InterruptedRunError(
            f"The run {files.run} is {status.value}; what was committed is kept.",
            hint="Running the same command again resumes it.",
        ) from error
    except LinnetError as error:
        _end(database, files, RunStatus.FAILED, f"{error.code}: {error.message}")
        raise
    except Exception as error:
        if log is not None:
            traceback.print_exc(file=log)
        found = unwrap(error) or LinnetError(
            f"The run {files.run} ended with {brief(error)}",
            code="train.failed",
            hint=f"`linnet train logs {files.run}` has the whole of it; the same command resumes the run.",
        )
        _end(database, files, RunStatus.FAILED, f"{found.code}: {found.message}")
        raise found from error
    _end(database, files, RunStatus.FINISHED, "completed")


def _is_recorded_as_finished(database: Database, run: str) -> bool:
    with database.snapshot() as session:
        return any(row.name == run and row.status == RunStatus.FINISHED for row in runs.all_runs(session))


def _end(database: Database, files: RunFiles, status: RunStatus, reason: str) -> RunStatus:
    told = timeline.summarize(files.read_attempts(), files.read_steps())
    with database.transaction() as session:
        row = runs.require(session, files.run)
        if status is RunStatus.INTERRUPTED and row.status == RunStatus.CANCELLING.value:
            status, reason = RunStatus.CANCELLED, row.reason
        row.step, row.attempts = told.step, len(told.attempts)
        runs.set_status(session, row, status, reason)
    return status


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Let SIGTERM stop the run as Ctrl-C does, and put the former handlers back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _listen()
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _listen() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


@contextlib.contextmanager
def _driver_log(files: RunFiles) -> Iterator[TextIO | None]:
    """logs/driver.log, appended to; None on an object store, where the journals must do."""
    if not files.storage.is_local:
        yield None
        return
    files.storage.make_dirs(files.logs)
    files.storage.append_line(f"{files.logs}/driver.log", f"--- pid {os.getpid()}".encode())
    with files.storage.local_path(f"{files.logs}/driver.log").open("a", encoding="utf-8") as log:
        yield log


def _result(todo: Plan, files: RunFiles) -> RunResult:
    return RunResult(
        run=todo.spec.run,
        trained=not todo.is_done,
        step=todo.spec.max_steps,
        published=todo.targets,
        directory=f"{files.storage.url.rstrip('/')}/{files.directory}",
    )
