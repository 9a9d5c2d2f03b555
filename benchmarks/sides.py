"""The sides of a benchmark, each in a process of its own, whose Ray ends with it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_ray_train

from cluster.config import Settings
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from train_jobs.dataset import load_packed
from train_jobs.spec import TrainSpec

BASE = VersionRef(model="bench", version="v1")


def run_apart(side: Callable[..., None], *arguments: Any) -> None:
    """Call `side` in a fresh process. Raises RuntimeError when it fails."""
    process = multiprocessing.get_context("spawn").Process(target=side, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{side.__name__} ended with {process.exitcode}")


def start_ray(cpus: int) -> None:
    """A Ray of this process alone, with so many CPUs to give away."""
    import ray

    # Ray tells of dead workers on stdout, where only the result belongs.
    sys.stdout = sys.stderr
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


def plain_ray(
    spec: TrainSpec,
    settings: Settings,
    workdir: Path,
    on_step: Callable[[plain_ray_train.StepMark], None],
    cpus: int,
) -> None:
    """Plain Ray Train with its defaults, in this process; see `plain_ray_train.run_plain`."""
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    here = Path(__file__).resolve().parent
    os.environ["PYTHONPATH"] = f"{here}:{here.parent}"
    start_ray(cpus)
    model_dir = ModelStore.open(settings).local_dir(BASE)
    dataset = load_packed(spec.data.train, model_dir, spec.max_length)
    plain_ray_train.run_plain(model_dir, dataset, spec, workdir, on_step)
