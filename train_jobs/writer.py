"""One checkpoint at a time written in the background, beside the steps that follow it.

A thread of lower priority than the steps, since measured so (30 million parameters trained in full, 409
MB a checkpoint, torch with one thread, 2 cores that others used too, medians of 8 rounds in turn): while
one was written, 5 steps took 48% longer beside a thread of equal priority, 3% beside one of the lowest,
and 2% beside a process of the lowest. Hashing and writing let go of the interpreter's lock, so a process
gains too little to pay for sharing the memory with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from cluster.errors import TimedOutError
from train_jobs.checkpoint import Committed

Job = Callable[[], Committed]

# The kernel gives a thread this far behind two fifths of what a step's thread gets on a busy core. The very
# last place would starve it beside steps of ordinary priority; Ray's workers, at 15, leave 4 in any case.
_BEHIND_THE_STEPS = 4


class Writer:
    """Runs commits one after another, each in a thread of its own, while training goes on.

    `on_commit(committed, seconds)` is called in that thread when one has ended well. An error is kept
    and raised once, on the thread that next asks. A process that ends without `drain` cuts the commit
    short, as a crash would: nothing half-written counts.
    """

    def __init__(self, on_commit: Callable[[Committed, float], None] | None = None) -> None:
        self._on_commit = on_commit
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last_committed: int | None = None
        self.waited_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a commit is being written."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Job) -> float:
        """Start `job`, which writes and commits one checkpoint, once the one before is done.

        Returns the seconds waited for that. Raises the error of the one before.
        """
        began = time.monotonic()
        self.wait(None)
        waited = time.monotonic() - began
        self.waited_s += waited
        self.check()
        self._thread = threading.Thread(target=self._run, args=(job,), name="checkpoint-writer", daemon=True)
        self._thread.start()
        return waited

    def check(self) -> None:
        """Raise the error of a commit that failed, once; never waits."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until nothing is being written (None: however long it takes); whether that is so."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.busy

    def drain(self, timeout_s: float) -> None:
        """Wait for the commit under way.

        Raises its error, and TimedOutError `train.commit_slow` when it is not done after `timeout_s`.
        """
        if not self.wait(timeout_s):
            raise TimedOutError(
                f"A checkpoint is still being written after {timeout_s:g} s.",
                code="train.commit_slow",
                hint="The run goes on from the checkpoint before; look at the storage's speed.",
                retryable=True,
            )
        self.check()

    def _run(self, job: Job) -> None:
        # Linux gives every thread a priority of its own: the step's threads come first.
        niceness = os.getpriority(os.PRIO_PROCESS, 0) + _BEHIND_THE_STEPS
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), min(niceness, 19))
        began = time.monotonic()
        try:
            committed = job()
            self.last_committed = committed.manifest.step
            if self._on_commit is not None:
                self._on_commit(committed, time.monotonic() - began)
        except BaseException as error:
            self._error = error
