"""A vLLM plugin: an engine process ends with the process that started it.

vLLM loads every `vllm.general_plugins` entry point in each of its processes. Without this,
killing a replica with SIGKILL leaves its engine core and workers running and holding memory.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

_CHECK_S = 1.0
_watching = threading.Event()


def end_with_parent() -> None:
    """In a child process of vLLM's, watch the parent from a daemon thread and exit when it is gone.

    A thread rather than PR_SET_PDEATHSIG, which fires when the parent's *thread* ends.
    """
    if multiprocessing.parent_process() is None or _watching.is_set():
        return
    _watching.set()
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="end-with-parent").start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_CHECK_S)
    os._exit(1)
