"""The Ray Train run itself: a TorchTrainer that restarts its workers quickly, and its outcome."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from cluster.errors import ConfigError, InterruptedRunError, LinnetError
from train_jobs.ray_errors import brief, unwrap
from train_jobs.spec import TrainSpec
from train_jobs.worker import WorkerJob, train_loop

# Ray Train hands these on to its controller and workers; a lost worker is seen within one interval.
RAY_TRAIN_ENVIRONMENT = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25"}
# Nothing is fetched at run time.
_WORKER_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_COLLECTIVE_TIMEOUT_S = 600


def set_environment() -> None:
    """Prepare this process for Ray Train; call it before Ray is imported."""
    for name, value in RAY_TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_cpus(spec: TrainSpec) -> None:
    """Raise ConfigError when the cluster can never place the workers."""
    import ray

    needed = spec.num_workers * spec.threads_per_worker
    offered = ray.cluster_resources().get("CPU", 0)
    if needed > offered:
        raise ConfigError(
            f"{spec.num_workers} workers of {spec.threads_per_worker} threads need {needed} CPUs, "
            f"the cluster has {offered:g}.",
            code="train.too_few_cpus",
            hint=f"Set num_workers={max(1, int(offered // spec.threads_per_worker))}, or add nodes.",
        )


def fit(job: WorkerJob) -> int:
    """Train to the last step, restarting the workers as often as the spec allows; returns that step.

    Raises the LinnetError that ended the run, InterruptedRunError after SIGINT, and LinnetError
    `train.workers_lost` when the workers failed too often.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    spec = job.spec
    with tempfile.TemporaryDirectory(prefix="linnet-ray-train-") as scratch:
        trainer = TorchTrainer(
            train_loop,
            train_loop_config={"job": job},
            torch_config=_torch_config(),
            scaling_config=ScalingConfig(
                num_workers=spec.num_workers, resources_per_worker={"CPU": spec.threads_per_worker}
            ),
            run_config=RunConfig(
                name=spec.run,
                # Ray keeps only a marker there: checkpoints, and what is resumed from, are ours.
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=spec.failures.max_failures),
                worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            ),
        )
        try:
            outcome: dict[str, Any] = trainer.fit().return_value
        except TrainingFailedError as error:
            raise _explain(error, spec) from error
        except (SystemExit, ray.exceptions.RayActorError) as error:
            # Ray's own SIGINT handler ends its controller and then exits.
            raise InterruptedRunError("Training was stopped.") from error
    if "error" in outcome:
        raise outcome["error"]
    return int(outcome["step"])


def _torch_config() -> Any:
    """Gloo without the farewell: survivors of a lost worker are stuck in a collective and cannot answer."""
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class AbruptBackend(_TorchBackend):
        def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
            """Ray ends the worker processes next, and their sockets with them."""

    class AbruptTorchConfig(TorchConfig):
        @property
        def backend_cls(self) -> type[_TorchBackend]:
            return AbruptBackend

    return AbruptTorchConfig(backend="gloo", timeout_s=_COLLECTIVE_TIMEOUT_S)


def _explain(error: BaseException, spec: TrainSpec) -> LinnetError:
    found = unwrap(error)
    if found is not None:
        return found
    failures = getattr(error, "worker_failures", None) or {}
    told = "; ".join(f"rank {rank}: {brief(inner)}" for rank, inner in sorted(failures.items()))
    return LinnetError(
        f"The workers failed more than {spec.failures.max_failures} times; last: {told or brief(error)}.",
        code="train.workers_lost",
        hint=f"`linnet train logs {spec.run}` has their logs; running the same command again resumes.",
        retryable=True,
    )
