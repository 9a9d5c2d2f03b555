"""What Ray tells of processes and nodes, put into our words; ends a process on whichever node it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

import psutil

from cluster.errors import LinnetError, StorageError
from cluster.recovery.classes import Signal
from train_jobs.stacks import python_stack

_END_TIMEOUT_S = 8.0
_CONNECT_TIMEOUT_S = 1.0
_BAD_LOSSES = {
    "train.not_finite": Signal.NOT_FINITE,
    "train.bad_loss": Signal.SPIKE,
    "train.diverged": Signal.SPIKE,
}


def own_address() -> str:
    """The address under which other nodes reach this process."""
    import ray

    return str(ray.util.get_node_ip_address())


def own_node() -> str:
    """The id of the node that this process is on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def is_running(pid: int) -> bool:
    """Whether a process of this node is there and not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def draining_nodes() -> set[str]:
    """Nodes that are about to be taken away, by id.

    Ray 2.60 has no public call for it; this is the one that Ray Train's own preemption watcher uses.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def node_alive(node_id: str) -> bool | None:
    """What Ray's node table says; None for a node that it does not know."""
    import ray

    return next((bool(node["Alive"]) for node in ray.nodes() if node["NodeID"] == node_id), None)


def node_answers(node_id: str) -> bool:
    """Whether the raylet of a node takes a connection; not where Ray no longer has such a node."""
    import ray

    for node in ray.nodes():
        if node["NodeID"] == node_id and node["Alive"]:
            try:
                address = (node["NodeManagerAddress"], node["NodeManagerPort"])
                socket.create_connection(address, _CONNECT_TIMEOUT_S).close()
                return True
            except OSError:
                return False
    return False


def room(threads_per_worker: int, draining: set[str]) -> int:
    """How many more workers Ray could place now on nodes that stay.

    Ray 2.60 has no public call for what is free on each node.
    """
    from ray._private.state import available_resources_per_node

    return sum(
        int(free.get("CPU", 0.0) // threads_per_worker)
        for node, free in available_resources_per_node().items()
        if node not in draining
    )


def surroundings(threads_per_worker: int) -> tuple[set[str], int]:
    """Nodes that drain, and how many more workers the others have room for."""
    drains = draining_nodes()
    return drains, room(threads_per_worker, drains)


def death(error: BaseException) -> str:
    """Why an actor does not answer, from the error of a call to it; without the guesses that Ray adds."""
    text = " ".join(str(error).split())
    return text.partition("Some common causes")[0].strip()[:600]


def signal_of(error: BaseException) -> Signal:
    """What kind of failure a worker's own exception is."""
    if isinstance(error, LinnetError) and error.code in _BAD_LOSSES:
        return _BAD_LOSSES[error.code]
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return Signal.OUT_OF_MEMORY
    return Signal.STORAGE_ERROR if isinstance(error, StorageError) else Signal.RAISED


def end_process(pid: int, node_id: str, with_stack: bool) -> str:
    """Kill a process, its Python stack taken down before; returns the stack, or why there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node_id == own_node():
        return _end_here(pid, with_stack)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_end_here).options(scheduling_strategy=there)
    try:
        return str(ray.get(task.remote(pid, with_stack), timeout=_END_TIMEOUT_S))
    except (ray.exceptions.RayError, TimeoutError) as error:
        return f"its node does not answer: {type(error).__name__}"


def _end_here(pid: int, with_stack: bool) -> str:
    stack = python_stack(pid) if with_stack else ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return stack
