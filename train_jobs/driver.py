"""Driving a run from spec to published versions; repeating it resumes wherever it stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from cluster import runtime
from cluster.config import Settings, StrictModel
from cluster.recovery import receipts
from cluster.registry import ModelStore
from cluster.state.database import Database, open_database
from cluster.storage import Storage
from train_jobs import checkpoint, encoded_uses, ending, inputs, preflight, publish, runs, timeline
from train_jobs.ending import Ending, Why
from train_jobs.inputs import Inputs
from train_jobs.planning import Plan, plan
from train_jobs.progress import Follower, Reporter
from train_jobs.ray_errors import get
from train_jobs.recording import driver_log, is_recorded_as_finished, recorded
from train_jobs.room import require_room
from train_jobs.run_files import RunFiles
from train_jobs.runs import RunStatus
from train_jobs.spec import TrainSpec
from train_jobs.stopping import listen, told_to_stop

if TYPE_CHECKING:
    from train_jobs.encoded import EncodedData


class RunResult(StrictModel):
    """How a run ended, at which step and why. `trained` is False when it had been finished before."""

    run: str
    trained: bool
    step: int
    why: Why
    published: list[str]
    directory: str


def train(spec: TrainSpec, settings: Settings, *, stream: TextIO | None = None) -> RunResult:
    """Train and publish what the spec asks for and is not there yet.

    Besides what `plan` and `fit.fit` raise: ConflictError while another driver trains this run and where
    its data have changed, InterruptedRunError on SIGINT, SIGTERM and `linnet train cancel`; then the run
    can be resumed.
    """
    todo = plan(spec, settings)
    files = RunFiles(Storage(settings.root), spec.run)
    database = open_database(settings.state_url)
    was_done = todo.is_done
    if todo.end is not None and was_done:
        Reporter(stream).say(f"The run {spec.run} is finished: {_told(todo.end)}, and published.")
        if is_recorded_as_finished(database, spec.run):
            return _result(todo, todo.end, files, trained=False)
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
        told_to_stop(),
        driver_log(files) as log,
        recorded(database, files, log),
        # Ray prints the raylet's complaints to stdout, which is for results.
        contextlib.redirect_stdout(log or sys.stderr),
    ):
        files.storage.write_atomic(files.spec, todo.spec.to_yaml().encode())
        drive = _Drive(todo, settings, files, database, launch, Reporter(stream, log))
        end = drive.finish(todo.end) if todo.end is not None and was_done else drive.carry_out()
        with database.transaction() as session:
            runs.require(session, spec.run).published = todo.targets
    return _result(todo, end, files, trained=not was_done)


@dataclass(frozen=True)
class _Drive:
    """One launch of a run."""

    todo: Plan
    settings: Settings
    files: RunFiles
    database: Database
    launch: str
    reporter: Reporter

    def carry_out(self) -> Ending:
        """Train what is missing, then publish what is missing; returns how the training ended."""
        from train_jobs import fit

        fit.set_environment()
        runtime.attach(self.settings)
        # Ray has put its own handler of SIGTERM, which exits at once.
        listen()
        known = self.todo.end
        if known is not None and self._has_good_checkpoint(known.step):
            return self.finish(known)
        return self._train()

    def _has_good_checkpoint(self, step: int) -> bool:
        newest = checkpoint.discover(self.files).newest
        return newest is not None and newest.manifest.step >= step

    def finish(self, end: Ending) -> Ending:
        """Write down how the training ended, then publish what is missing."""
        ending.write(self.files, end)
        if self.todo.missing:
            self._publish()
        return end

    def _train(self) -> Ending:
        spec = self.todo.spec
        # Before the data are encoded, which takes long, and again when it is known how long their rows are.
        require_room(self.todo, self.settings)
        self.reporter.say(f"{spec.run}: encoding {spec.data.train}")
        dataset = self._encoded(spec.data.train, packing=spec.packing)
        validation = None
        if spec.eval_steps and spec.data.validation:
            validation = self._encoded(spec.data.validation, packing=False)
        inputs.settle(self.files, self._inputs(dataset, validation), has_begun=self.todo.has_begun)
        require_room(self.todo, self.settings, *filter(None, [dataset, validation]))
        preflight.check_batch(spec, dataset.samples)
        return self._with_steps(dataset.samples)._fit(dataset, validation)

    def _inputs(self, dataset: EncodedData, validation: EncodedData | None) -> Inputs:
        return Inputs(
            train=dataset.fingerprint,
            validation=validation.fingerprint if validation else None,
            base=inputs.base_identity(ModelStore.open(self.settings).manifest(self.todo.base)),
        )

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

    def _fit(self, dataset: EncodedData, validation: EncodedData | None) -> Ending:
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
        ending.forget(self.files)
        try:
            with Follower(
                self.files, self.reporter, total=spec.max_steps, every=spec.logging_steps, tick=self._renew
            ):
                step = fit.fit(job, self.reporter.say)
        finally:
            draw(self.files)
        return self.finish(ending.at_step(step, spec))

    def _encoded(self, path: str, *, packing: bool) -> EncodedData:
        """The data as files that all workers map, made unless they are there."""
        from train_jobs import encoding_task

        found = encoding_task.encode(self.todo.spec, self.settings, self.todo.base, path, packing=packing)
        for sentence in encoding_task.sentences(found, path):
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


def _told(end: Ending) -> str:
    if end.why is Why.EARLY_STOPPING:
        return f"stopped after step {end.step}, since it got no better"
    return f"all {end.step} steps"


def _result(todo: Plan, end: Ending, files: RunFiles, *, trained: bool) -> RunResult:
    return RunResult(
        run=todo.spec.run,
        trained=trained,
        step=end.step,
        why=end.why,
        published=todo.targets,
        directory=f"{files.storage.url.rstrip('/')}/{files.directory}",
    )
