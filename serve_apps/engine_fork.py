"""Engine processes that start with their imports done, on hosts without a GPU.

vLLM spawns its engine core, and that a worker, each of which imports torch and vLLM anew: some
ten seconds a process on two cores, one after another. Here a fork server imports them while the
replica does, and the engine core is forked from it. A GPU engine keeps vLLM's own way, since
CUDA must not be touched before a fork.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os

_PRELOADED = [
    "vllm.v1.engine.core",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.registry",
    "transformers",
]


def start() -> None:
    """Start the fork server; it imports on its own while this process goes on.

    OpenMP takes its number of threads when torch is imported. Like vLLM, leave one core to the
    processes that feed the engine; unlike it, bind to no core, or several replicas of a host
    would share the same ones.
    """
    variable = "OMP_NUM_THREADS"
    given = os.environ.get(variable)
    os.environ[variable] = given or str(max(1, len(os.sched_getaffinity(0)) - 1))
    try:
        multiprocessing.set_forkserver_preload(_PRELOADED)
        multiprocessing.forkserver.ensure_running()
    finally:
        if given is None:
            del os.environ[variable]


def context() -> multiprocessing.context.ForkServerContext:
    """What vLLM is to make its engine process with."""
    return multiprocessing.get_context("forkserver")
