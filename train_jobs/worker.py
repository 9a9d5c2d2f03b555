"""What runs in each Ray Train worker: set up, resume from the newest good checkpoint, train, save."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.config import Settings
from cluster.errors import LinnetError
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from train_jobs import checkpoint, state
from train_jobs.checkpoint import Discovery
from train_jobs.dataset import PackedDataset
from train_jobs.group import Group
from train_jobs.loop import Loop, StepResult
from train_jobs.model import attach_lora, load_base
from train_jobs.run_files import AttemptRecord, RunFiles, StepRecord, WorkerRecord
from train_jobs.spec import TrainSpec

_LOG = logging.getLogger("train_jobs")


@dataclass(frozen=True)
class WorkerJob:
    """What the driver tells every worker; `dataset` is a reference into Ray's object store."""

    spec: TrainSpec
    settings: Settings
    base: VersionRef
    launch: str
    dataset: Any


def train_loop(config: dict[str, WorkerJob]) -> dict[str, Any]:
    """Entry of Ray Train on each worker; returns `{"step"}` or `{"error"}`.

    An error of ours is returned by all ranks together and ends the run: it would come back after a
    restart. Anything else is raised, and Ray Train restarts the group.
    """
    import ray
    from ray import train

    job = config["job"]
    torch.set_num_threads(job.spec.threads_per_worker)
    group = Group()
    try:
        worker = Worker(job, ray.get(job.dataset), group, ray.util.get_node_ip_address())
        worker.resume()
        step = worker.train()
        # Metrics only: Ray keeps no checkpoint of ours, and each report costs one poll of its controller.
        train.report({"step": step})
        return {"step": step}
    except LinnetError as error:
        _LOG.error("%s", error.render())
        return {"error": error}


class Worker:
    """One rank of one attempt."""

    def __init__(self, job: WorkerJob, dataset: PackedDataset, group: Group, node_ip: str) -> None:
        self.job, self.spec, self.dataset, self.group = job, job.spec, dataset, group
        self.files = RunFiles(Storage(job.settings.root), job.spec.run)
        self._node_ip = node_ip
        self._step = 0
        self._attempt = 0
        self._failure: LinnetError | None = None

    def resume(self) -> None:
        """Build the model, restore the newest good checkpoint and record the attempt."""
        me = WorkerRecord(rank=self.group.rank, pid=os.getpid(), node_ip=self._node_ip)
        workers = self.group.gather(me)
        found = self._agreed(self._look_back)
        self._attempt, discovery = self.group.from_first(found)
        _log_to_file(self.files, self._attempt, self.group.rank)
        self._agreed(lambda: self._build(discovery))
        self._agreed(lambda: self._record(workers, discovery))

    def train(self) -> int:
        """Train to the last step, saving as the spec says; returns the last step."""
        while self._step < self.spec.max_steps:
            began = time.monotonic()
            result = self.loop.run_step(self._step + 1, stop=self._failure is not None)
            self._step += 1
            self._journal(result, time.monotonic() - began)
            if result.stop:
                self.group.raise_together(self._failure)
            if self._step % self.spec.save_steps == 0 or self._step == self.spec.max_steps:
                self._save(result)
        return self._step

    def _look_back(self) -> tuple[int, Discovery] | None:
        if self.group.rank != 0:
            return None
        discovery = checkpoint.discover(self.files)
        checkpoint.sweep(self.files)
        last = max((record.attempt for record in self.files.read_attempts()), default=0)
        return last + 1, discovery

    def _build(self, discovery: Discovery) -> None:
        directory: Path = ModelStore.open(self.job.settings).local_dir(self.job.base)
        model = attach_lora(load_base(directory), self.spec.peft, self.spec.seed)
        model.peft_config["default"].base_model_name_or_path = str(self.job.base)
        self.loop = Loop(self.spec, model, self.dataset, self.group)
        if discovery.newest is None:
            return
        position = state.restore(
            checkpoint.read(self.files.storage, discovery.newest),
            model,
            self.loop.optimizer,
            data_fingerprint=self.dataset.fingerprint,
            rank=self.group.rank,
        )
        self._step = position.step

    def _record(self, workers: list[WorkerRecord], discovery: Discovery) -> None:
        for sentence in discovery.skipped:
            _LOG.warning("skipped: %s", sentence)
        _LOG.info("attempt %d goes on from step %d", self._attempt, self._step)
        if self.group.rank == 0:
            self.files.add_attempt(
                AttemptRecord(
                    attempt=self._attempt,
                    at=time.time(),
                    launch=self.job.launch,
                    resumed_from_step=self._step,
                    skipped=discovery.skipped,
                    workers=workers,
                )
            )

    def _journal(self, result: StepResult, seconds: float) -> None:
        if self.group.rank != 0 or self._failure is not None:
            return
        record = StepRecord(
            step=self._step,
            loss=result.loss,
            learning_rate=result.learning_rate,
            tokens=result.tokens,
            tokens_per_s=result.tokens / seconds,
            step_s=seconds,
            attempt=self._attempt,
            at=time.time(),
        )
        try:
            self.files.add_step(record)
        except LinnetError as error:
            # The other ranks are on their way into the next step, where they hear of it.
            self._failure = error

    def _save(self, result: StepResult) -> None:
        rng = self.group.gather(state.rng())
        self._agreed(lambda: self._commit(result, rng) if self.group.rank == 0 else None)

    def _commit(self, result: StepResult, rng: list[Any]) -> None:
        if self._failure is not None:
            raise self._failure
        position = state.Position(
            step=self._step,
            samples_seen=self._step * self.spec.global_batch_size,
            seed=self.spec.seed,
            learning_rate=result.learning_rate,
            data_fingerprint=self.dataset.fingerprint,
            spec_sha256=self.spec.sha256,
        )
        checkpoint.commit(
            self.files,
            state.capture(self.loop.model, self.loop.optimizer, position, rng),
            step=self._step,
            attempt=self._attempt,
            world_size=self.group.size,
            metrics={"loss": result.loss},
        )
        checkpoint.prune(self.files, self.spec.save_total_limit)
        _LOG.info("step %d committed, loss %.4f", self._step, result.loss)

    def _agreed(self, act: Any) -> Any:
        """Do something that may fail on one rank, and fail on all if it does."""
        error, value = None, None
        try:
            value = act()
        except LinnetError as caught:
            error = caught
        self.group.raise_together(error)
        return value


def _log_to_file(files: RunFiles, attempt: int, rank: int) -> None:
    """Write this rank's log beside the run; on an object store Ray's own session logs have it."""
    if not files.storage.is_local:
        return
    directory = files.storage.local_path(files.logs)
    directory.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(directory / f"attempt_{attempt}_rank_{rank}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
