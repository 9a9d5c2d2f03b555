"""The Ray Train run itself: a trainer that restarts its workers quickly, and its outcome."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from cluster.errors import InterruptedRunError, LinnetError
from train_jobs.base_config import BaseConfig
from train_jobs.demand import Demand
from train_jobs.encoded import EncodedData
from train_jobs.encoding import Longest
from train_jobs.entry import WorkerJob, train_loop
from train_jobs.formation import ray_signals
from train_jobs.memory import memory_estimate
from train_jobs.preflight import Node, check_fits
from train_jobs.ray_errors import brief, unwrap
from train_jobs.spec import TrainSpec
from train_jobs.stopping import handlers_kept

# Ray Train hands these on to its controller and workers; a lost worker is seen within one interval.
RAY_TRAIN_ENVIRONMENT = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
# Lives of Ray's controller that may end in an error without a commit between them.
_LIVES = 10
_ROOM_WITHIN_S = 5.0
_LOOK_S = 0.5
# Nothing is fetched at run time.
_WORKER_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def set_environment() -> None:
    """Prepare this process for Ray Train; call it before Ray is imported."""
    for name, value in RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_room(
    spec: TrainSpec,
    parameters: int,
    config: BaseConfig | None = None,
    encoded: Sequence[EncodedData] = (),
) -> None:
    """Raise ConfigError when the cluster's nodes cannot hold the workers, with the nearest spec that fits.

    `parameters` counts those of the base, `config` is its configuration. Before its data are `encoded`, rows
    count as nothing: what is refused then would not fit with any.
    """
    import ray

    nodes = [
        Node(cpus=node["Resources"].get("CPU", 0.0), memory_bytes=int(node["Resources"].get("memory", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    longest = reduce(Longest.or_longer, (data.longest for data in encoded), Longest())
    check_fits(spec, nodes, lambda changed: memory_estimate(changed, parameters, config, longest))


def fit(job: WorkerJob, say: Callable[[str], object]) -> int:
    """Train to the last step, workers being replaced as they fail; returns that step.

    `say` gets a line while there is no room to begin. Raises the LinnetError that ended the run, and
    InterruptedRunError after SIGINT.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    lives, committed = 0, -1
    while _ask(job, "outcome") is None:
        reached = _ask(job, "committed_step")
        lives, committed = (lives if reached == committed else 0) + 1, reached
        with Demand(job.spec.min_workers, job.spec.threads_per_worker) as demand:
            workers = workers_to_launch(job.spec, _room, demand.look, say)
        _ask(job, "launched", workers)
        try:
            _launch(job, workers)
        except _controller_errors() as error:
            # Ray's controller is gone, or gives up when a worker dies while it is being started, or when
            # the run is over and there is no place for a worker that was lost. The run goes on.
            if unwrap(error) is not None or (lives >= _LIVES and _ask(job, "outcome") is None):
                raise unwrap(error) or _explain(error, job.spec) from error
        except TrainingFailedError as error:
            raise unwrap(error) or _explain(error, job.spec) from error
        except SystemExit as error:
            # Ray's own SIGINT handler ends its controller and then exits.
            raise InterruptedRunError("Training was stopped.") from error
    end = _ask(job, "outcome")
    if end.error is not None:
        raise end.error
    return int(end.step)


def _controller_errors() -> tuple[type[BaseException], ...]:
    import ray
    from ray.train.v2.api.exceptions import ControllerError

    return ControllerError, ray.exceptions.RayActorError


def _ask(job: WorkerJob, method: str, *arguments: Any) -> Any:
    """Call the coordinator, which the run does not survive."""
    import ray

    try:
        return ray.get(getattr(job.coordinator, method).remote(*arguments))
    except ray.exceptions.RayActorError as error:
        raise LinnetError(
            f"The coordinator of the run {job.spec.run} is gone: {ray_signals.death(error)}",
            code="train.coordinator",
            hint="Its process was ended or had no memory left. The same command resumes the run.",
            retryable=True,
        ) from error


def workers_to_launch(
    spec: TrainSpec,
    room: Callable[[TrainSpec], int],
    ask: Callable[[], object],
    say: Callable[[str], object],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """How many processes to ask Ray Train for: all, or what fits where fewer are enough to train.

    A group of one size is asked for as it is, and Ray waits until there is room. One that may shrink
    waits some seconds for all, since what has just ended still holds its CPUs, and for as long as it takes
    for the least; at each look it does `ask` for that, and does `say` what there is when that changes.
    """
    wanted = spec.slots + spec.standby
    if spec.min_workers == spec.slots:
        return wanted
    limit, told = clock() + _ROOM_WITHIN_S, -1
    while True:
        found = room(spec)
        if found >= wanted:
            return wanted
        if clock() >= limit:
            if found >= spec.min_workers:
                return found
            if found != told:
                say(_waiting(spec, found))
            told = found
            ask()
        sleep(_LOOK_S)


def _waiting(spec: TrainSpec, found: int) -> str:
    return (
        f"{spec.run}: waiting for CPUs; there is room for {found} of at least {spec.min_workers} workers "
        f"with {spec.threads_per_worker} each"
    )


def _room(spec: TrainSpec) -> int:
    _, room = ray_signals.surroundings(spec.threads_per_worker)
    return room


def _launch(job: WorkerJob, workers: int) -> None:
    """One life of Ray Train's controller and of its workers."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from train_jobs.formation.ray_train import DataParallelTrainer, FormationConfig

    spec = job.spec
    # Ray's handler of SIGINT answers for its controller, and for nothing once that has ended.
    with handlers_kept(), tempfile.TemporaryDirectory(prefix="linnet-ray-train-") as scratch:
        DataParallelTrainer(
            train_loop,
            train_loop_config={"job": job},
            backend_config=FormationConfig(job.coordinator),
            scaling_config=ScalingConfig(
                num_workers=workers, resources_per_worker={"CPU": spec.threads_per_worker}
            ),
            run_config=RunConfig(
                name=spec.run,
                # Ray keeps only a marker there: checkpoints, and what is resumed from, are ours.
                storage_path=scratch,
                # Whether a failure is one too many is the coordinator's decision, which ends the run itself.
                failure_config=FailureConfig(max_failures=-1),
                worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            ),
        ).fit()


def _explain(error: BaseException, spec: TrainSpec) -> LinnetError:
    failures = getattr(error, "worker_failures", None) or {}
    told = "; ".join(f"rank {rank}: {brief(inner)}" for rank, inner in sorted(failures.items()))
    return LinnetError(
        f"Ray Train gave up: {told or brief(error)}.",
        code="train.workers_lost",
        hint=f"`linnet train logs {spec.run}` has their logs; running the same command again resumes.",
        retryable=True,
    )
