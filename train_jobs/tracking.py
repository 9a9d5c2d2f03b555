"""TensorBoard, MLflow and W&B beside a run's own journal; none of them can hold a run up or end it."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from cluster.config import Settings, StrictModel
from cluster.errors import ConfigError, NotFoundError
from train_jobs.run_files import RunFiles, StepRecord
from train_jobs.spec import Tracker, TrainSpec

_LOG = logging.getLogger("train_jobs")
_MODULES = {Tracker.TENSORBOARD: "tensorboardX", Tracker.MLFLOW: "mlflow", Tracker.WANDB: "wandb"}
_PROJECT = "linnet"
_FLUSH_S = 1
_CLOSE_TIMEOUT_S = 30.0


class TrackerMark(StrictModel):
    """What one tracker was given of a run: all up to `step`, under the tracker's own `run_id`."""

    step: int = 0
    run_id: str = ""


class _Sink(Protocol):
    """A tracker that is open for one run; `run_id` finds the run again after a resume."""

    run_id: str

    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def require_installed(spec: TrainSpec) -> None:
    """Raise ConfigError `train.tracker_missing` for a tracker in `report_to` whose package is not there."""
    for tracker in spec.report_to:
        package = _MODULES[tracker]
        if find_spec(package) is None:
            raise ConfigError(
                f"`report_to` names {tracker.value}, and the package {package} is not installed.",
                code="train.tracker_missing",
                hint=f"`pip install {package}` on every node, or take {tracker.value} out of `report_to`.",
            )


def metrics_of(record: StepRecord) -> dict[str, float]:
    """A step's metrics by the names that Hugging Face Trainer's integrations give them (`train/loss`)."""
    taken = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "step_s")
    train = {**{name: getattr(record, name) for name in taken}, **record.metrics}
    held_out = {f"eval/{name.removeprefix('eval_')}": value for name, value in record.eval.items()}
    return {**{f"train/{name}": value for name, value in train.items()}, **held_out}


class Trackers:
    """The trackers of `spec.report_to`, fed by a thread of their own.

    A step is given to a tracker once, whichever process does so and however often the step is done: what
    was given is kept beside the run, and noted first, so that a process killed in between leaves a gap of
    that step rather than a second point. Nothing is opened before the first `log`. A tracker that fails
    is left out from then on, with one warning.
    """

    def __init__(self, spec: TrainSpec, files: RunFiles, settings: Settings) -> None:
        self._feeds = [_Feed(tracker, files, settings) for tracker in spec.report_to]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand over all metrics of a step, in one call; returns at once."""
        for feed in self._feeds:
            feed.put(step, metrics)

    def close(self) -> None:
        """Hand over what is left; waits for each tracker, but at most 30 s."""
        for feed in self._feeds:
            feed.close()


class _Feed:
    """One tracker's queue and thread."""

    def __init__(self, tracker: Tracker, files: RunFiles, settings: Settings) -> None:
        self._tracker, self._files, self._settings = tracker, files, settings
        self._mark_path = f"{files.directory}/trackers/{tracker.value}.json"
        self._queue: queue.SimpleQueue[tuple[int, Mapping[str, float]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"track-{tracker.value}", daemon=True)
        self._is_open = False

    def put(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self._is_open:
            self._is_open = True
            self._thread.start()
        if self._thread.is_alive():
            self._queue.put((step, dict(metrics)))

    def close(self) -> None:
        if not self._is_open:
            return
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            _LOG.warning("%s did not take its last metrics within %.0f s", self._tracker, _CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            sink = _OPENERS[self._tracker](self._files, self._settings, self._read_mark().run_id)
            with contextlib.closing(sink):
                self._pass_on(sink)
        # Whatever a tracker raises, down to the SystemExit of a client that gives up.
        except BaseException as error:
            _LOG.warning("%s is left out from now on: %s: %s", self._tracker, type(error).__name__, error)

    def _pass_on(self, sink: _Sink) -> None:
        while (item := self._queue.get()) is not None:
            step, metrics = item
            # Read anew: between two steps of this process another one may have been the run's first rank.
            if step > self._read_mark().step:
                self._write_mark(TrackerMark(step=step, run_id=sink.run_id))
                sink.write(step, metrics)

    def _read_mark(self) -> TrackerMark:
        try:
            return TrackerMark.model_validate_json(self._files.storage.read_bytes(self._mark_path))
        except (NotFoundError, ValidationError):
            return TrackerMark()

    def _write_mark(self, mark: TrackerMark) -> None:
        self._files.storage.write_atomic(self._mark_path, mark.model_dump_json().encode())


class _TensorBoard:
    """Event files in the run's directory; on an object store below LINNET_HOME, since they grow."""

    run_id = ""

    def __init__(self, files: RunFiles, settings: Settings, _run_id: str) -> None:
        from tensorboardX import SummaryWriter

        # Two writers of one second would take the same file name.
        suffix = f".{os.getpid()}.{uuid.uuid4().hex[:8]}"
        directory = _local_directory(files, settings) / "tensorboard"
        self._writer = SummaryWriter(str(directory), flush_secs=_FLUSH_S, filename_suffix=suffix)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _MlFlow:
    """The server of MLFLOW_TRACKING_URI, or else a database in the run's directory."""

    def __init__(self, files: RunFiles, settings: Settings, run_id: str) -> None:
        from mlflow.tracking import MlflowClient

        directory = _local_directory(files, settings)
        directory.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(
            os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory}/mlflow.db"
        )
        self.run_id = run_id or self._create(files.run)

    def _create(self, name: str) -> str:
        found = self._client.get_experiment_by_name(_PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(_PROJECT)
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self.run_id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.run_id)


class _Wandb:
    """A W&B run in the project `linnet`; the client's own variables (WANDB_MODE, WANDB_API_KEY) hold."""

    def __init__(self, files: RunFiles, settings: Settings, run_id: str) -> None:
        import wandb

        directory = _local_directory(files, settings)
        directory.mkdir(parents=True, exist_ok=True)
        self.run_id = run_id or uuid.uuid4().hex
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=self.run_id,
            name=files.run,
            dir=str(directory),
            resume="allow",
            settings=wandb.Settings(console="off"),
        )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


_OPENERS = {Tracker.TENSORBOARD: _TensorBoard, Tracker.MLFLOW: _MlFlow, Tracker.WANDB: _Wandb}


def _local_directory(files: RunFiles, settings: Settings) -> Path:
    return (
        files.storage.local_path(files.directory)
        if files.storage.is_local
        else settings.home / files.directory
    )
