"""What the monkey sees of a run, from outside: its journals, its checkpoints and its processes."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from cluster.recovery import receipts
from cluster.recovery.receipts import Receipt
from train_jobs.run_files import AttemptRecord, RunFiles

DEADLINE_S = 90.0
_POLL_S = 0.002
_TAIL = 8192
_LOG = re.compile(r"attempt_(\d+)_rank_\d+\.log")
_T = TypeVar("_T")


class RunIsOverError(AssertionError):
    """The run ended while the monkey still had plans for it."""


class Stage:
    """One run that is under way. `root_pid` is the process below which its Ray lives.

    `eval_steps` is how often it evaluates.
    """

    def __init__(
        self, files: RunFiles, root_pid: int, deadline_s: float = DEADLINE_S, eval_steps: int = 0
    ) -> None:
        self.eval_steps = eval_steps
        self.files, self.over, self._deadline_s = files, threading.Event(), deadline_s
        self._root = psutil.Process(root_pid)
        self._metrics = files.storage.local_path(files.metrics)
        # A process that is being ended looks alive for a moment more.
        self.struck: set[int] = set()
        self.checkpoints = files.storage.local_path(files.checkpoints)

    def until(self, condition: Callable[[], _T], what: str) -> _T:
        """Wait for a condition; its value. Raises AssertionError at the deadline, or when the run is over."""
        limit = time.monotonic() + self._deadline_s
        while time.monotonic() < limit:
            found = condition()
            if found:
                return found
            if self.over.is_set():
                raise RunIsOverError(f"the run was over before {what}")
            time.sleep(_POLL_S)
        raise AssertionError(f"{what} did not happen within {self._deadline_s:g} s; step {self.step}")

    @property
    def step(self) -> int:
        """The step on the last whole line of metrics.jsonl; 0 without one."""
        return int(json.loads(line)["step"]) if (line := self._last_line()) else 0

    def _last_line(self) -> bytes:
        if not self._metrics.exists():
            return b""
        with self._metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().split(b"\n")[:-1]
        return lines[-1] if lines else b""

    def lines(self) -> int:
        """Steps done so far, repeated ones counted each time."""
        return self._metrics.read_bytes().count(b"\n") if self._metrics.exists() else 0

    def attempts(self) -> list[AttemptRecord]:
        return self.files.read_attempts()

    def receipts(self) -> list[Receipt]:
        return receipts.read(self.files.storage, self.files.receipts)

    def newest_log(self) -> int:
        """The highest attempt that any worker has begun to take up, whether it got there or not."""
        logs = self.files.storage.local_path(self.files.logs)
        found = [_LOG.fullmatch(path.name) for path in logs.iterdir()] if logs.is_dir() else []
        return max((int(match[1]) for match in found if match), default=0)

    def members(self) -> list[int]:
        """Pids of the newest attempt's workers that are alive, and that nothing was done to."""
        attempts = self.attempts()
        found = [w.pid for w in attempts[-1].workers if w.pid not in self.struck] if attempts else []
        return [pid for pid in found if is_alive(pid)]

    def workers(self) -> set[int]:
        """Pids of all processes that are a Ray Train worker by now, warm or not."""
        found = set()
        for process in self._root.children(recursive=True):
            try:
                if any("RayTrainWorker" in part for part in process.cmdline()):
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    def committed(self) -> list[int]:
        """Steps with a manifest; none while the directory is not one."""
        steps = []
        for manifest in self.checkpoints.glob("step_*/manifest.json"):
            steps.append(int(manifest.parent.name.removeprefix("step_")))
        return sorted(steps)

    def is_saving(self) -> bool:
        return any(self.checkpoints.glob(".staging_*"))

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"step_{step}"


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
