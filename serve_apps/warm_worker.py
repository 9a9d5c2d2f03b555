"""One worker process a host that has done its imports before a replica needs it.

A replica spends most of its start importing torch and vLLM. Ray's raylet can start a worker for a
runtime environment ahead of time; `prepare`, which Ray calls in each worker of a version, imports
there what a replica imports, and the next replica of that environment on the host gets the process
as it is. Ray has no public call for it: `_prestart` is the RPC of Ray 2.60 that its own C++ client
uses, held by `tests/serve_apps/test_warm_worker.py`.

Files in Ray's session directory say who is there. They hold nothing but locks, which the kernel
gives back when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serve_apps import engine_fork
from serve_apps.serve_settings import HOOK_VARIABLE

HOLDS_FOR = "2.60"
"""Of Ray."""

HOOK = "serve_apps.warm_worker.prepare"
"""Named in the runtime environment of a replica, for Ray to call before anything else there."""

KEY_VARIABLE = "LINNET_RUNTIME_ENV"
"""Names the runtime environment: a process that has no work yet cannot ask Ray for its own."""

STARTING_S = 60.0
"""How long after one was asked for no other is."""
UNUSED_S = 600.0
"""How long it outlives the last replica of its host."""

_IMPORTED = "serve_apps.engine"
_KEEP_S = 365 * 24 * 3600
_LOOK_S = 10.0


class WarmWorker:
    """The warm worker of one host and runtime environment, as its processes see it.

    Three locks: that of `warm` is held by the worker while it is free, `users` by every replica,
    `asking` for as long as it takes to ask. None of them is waited for, but the last.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._path = {name: directory / f"linnet-{name}-{key}" for name in ("warm", "users", "asking")}
        self._held: dict[str, int] = {}
        self._deciding = threading.Lock()

    def offer(self) -> bool:
        """Say that this process is free; False where another is."""
        return self._hold("warm", fcntl.LOCK_EX)

    def take(self) -> None:
        """This process becomes a replica."""
        with self._deciding:
            self._release("warm")
        self._hold("users", fcntl.LOCK_SH)

    def is_free(self) -> bool:
        """Whether this process is still the warm one."""
        return "warm" in self._held

    def end(self, leave: Callable[[int], object] = os._exit) -> None:
        """End this process, unless a replica has just begun in it."""
        with self._deciding:
            if self.is_free():
                leave(0)

    def is_wanted(self) -> bool:
        """Whether the host has a replica of this environment."""
        return not self._could_hold("users", fcntl.LOCK_EX)

    def is_missing(self, now: float) -> bool:
        """Whether none is there or was asked for lately; whoever is told so has to ask for it."""
        with self._path["asking"].open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._could_hold("warm", fcntl.LOCK_SH):
                return False
            file.seek(0)
            if abs(now - _number(file.read())) < STARTING_S:
                return False
            file.truncate(0)
            file.write(str(now))
            return True

    def _hold(self, name: str, kind: int) -> bool:
        file = os.open(self._path[name], os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._held[name] = file
        return True

    def _release(self, name: str) -> None:
        if name in self._held:
            os.close(self._held.pop(name))

    def _could_hold(self, name: str, kind: int) -> bool:
        with self._path[name].open("a") as file:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


def variables(runtime_env: dict[str, Any]) -> dict[str, str]:
    """What a runtime environment needs among its variables for replicas that start warm."""
    text = json.dumps(runtime_env, sort_keys=True, default=str)
    return {HOOK_VARIABLE: HOOK, KEY_VARIABLE: hashlib.sha256(text.encode()).hexdigest()[:12]}


_own: list[WarmWorker] = []


def prepare() -> None:
    """Import what a replica needs, in a process that may wait for one."""
    engine_fork.start()
    own = _of_this_process()
    _own.append(own)
    if own.offer():
        threading.Thread(target=_end_unused, args=(own,), daemon=True, name="linnet-warm-worker").start()
    try:
        importlib.import_module(_IMPORTED)
    except ValueError:
        # Ray looks whether its connectors are registered in the cluster and then registers them: two
        # processes that import at once get in each other's way, and the second time finds them there.
        importlib.import_module(_IMPORTED)


def taken() -> None:
    """A replica begins in this process."""
    for own in _own:
        own.take()


def keep_one() -> None:
    """Have a warm worker on this host, unless there is one; blocks for some milliseconds."""
    if any(own.is_missing(time.time()) for own in _own):
        _prestart()


def _of_this_process() -> WarmWorker:
    from ray._private.worker import global_worker

    return WarmWorker(Path(global_worker.node.get_session_dir_path()), os.environ[KEY_VARIABLE])


def _end_unused(own: WarmWorker) -> None:
    wanted_at = time.monotonic()
    while own.is_free():
        if own.is_wanted():
            wanted_at = time.monotonic()
        elif time.monotonic() - wanted_at > UNUSED_S:
            own.end()
        time.sleep(_LOOK_S)


def _number(text: str) -> float:
    # What a process that was killed has left half written is as good as nothing.
    try:
        return float(text)
    except ValueError:
        return -math.inf


def _prestart() -> None:
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc, runtime_environment_pb2
    from ray.core.generated.common_pb2 import Language

    context = ray.get_runtime_context()
    request: Any = node_manager_pb2.PrestartWorkersRequest(
        language=Language.PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        runtime_env_info=runtime_environment_pb2.RuntimeEnvInfo(
            serialized_runtime_env=context.get_runtime_env_string()
        ),
        keep_alive_duration_secs=_KEEP_S,
        num_workers=1,
    )
    with init_grpc_channel(_raylet(context.get_node_id())) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=10)


def _raylet(node_id: str) -> str:
    import ray

    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    if node is None:
        raise ConnectionError(f"Ray names no node {node_id}")
    return f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
