"""Entry of Ray Train on each worker; light, so that a newcomer can hold back before it imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.config import Settings
from cluster.refs import VersionRef
from train_jobs.formation.member import CoordinatorLostError, Member
from train_jobs.spec import TrainSpec

if TYPE_CHECKING:
    from train_jobs.encoded import EncodedData
    from train_jobs.worker import Worker


@dataclass(frozen=True)
class WorkerJob:
    """What the driver tells every worker; the datasets are opened from their files."""

    spec: TrainSpec
    settings: Settings
    base: VersionRef
    coordinator: Any
    dataset: EncodedData
    validation: EncodedData | None


def train_loop(config: dict[str, WorkerJob]) -> dict[str, Any]:
    """Work for the run until it has ended; returns `{"step", "error"}`.

    What is raised makes Ray Train replace this worker; the others keep their processes. A worker without
    a coordinator ends well, since a replacement would have nobody to work for either.
    """
    from ray import train

    job = config["job"]
    member = Member(job.coordinator, train.get_context().get_world_rank())
    try:
        # Importing and loading take a core for seconds, which those that recover need more.
        member.hold_back()
        member.begin()
        return _warm_worker(job, member).live()
    except CoordinatorLostError as error:
        if not error.is_dead:
            raise
        return {"step": 0, "error": None}


def _warm_worker(job: WorkerJob, member: Member) -> Worker:
    try:
        import torch

        from train_jobs.encoded import open_encoded
        from train_jobs.worker import Worker

        torch.set_num_threads(job.spec.threads_per_worker)
        dataset = open_encoded(job.dataset, job.settings)
        validation = open_encoded(job.validation, job.settings) if job.validation else None
        worker = Worker(job, member, dataset, validation)
        worker.trainee.warm()
        return worker
    except Exception as error:
        member.could_not_start(error)
        raise
