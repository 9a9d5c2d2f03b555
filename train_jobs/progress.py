"""Progress of a run: one line that rewrites itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TextIO

from cluster.errors import LinnetError
from train_jobs.run_files import AttemptRecord, RunFiles, StepRecord, Tail, known_attempts

_RECENT = 10
_TICK_S = 0.5
_TICKS_BETWEEN_SIGNS = 4


def eta_s(steps: Sequence[StepRecord], total: int) -> float:
    """Seconds to the last step, at the pace of the latest ones."""
    recent = [step.step_s for step in itertools.islice(reversed(steps), _RECENT)]
    return statistics.median(recent) * (total - steps[-1].step) if recent else 0.0


def step_line(run: str, steps: Sequence[StepRecord], total: int) -> str:
    """`smollm2-sentiment  step 12/40  loss 0.4321  153 tokens/s  ETA 1:52` for the last of `steps`."""
    last = steps[-1]
    minutes, seconds = divmod(round(eta_s(steps, total)), 60)
    return (
        f"{run}  step {last.step}/{total}  loss {last.loss:.4f}  "
        f"{last.tokens_per_s:.0f} tokens/s  ETA {minutes}:{seconds:02d}"
    )


def attempt_line(record: AttemptRecord) -> str:
    """What an attempt starts from, and with whom."""
    pids = ", ".join(f"rank {worker.rank} pid {worker.pid}" for worker in record.workers)
    return f"attempt {record.attempt} goes on from step {record.resumed_from_step} ({pids})"


class Reporter:
    """Writes progress to `stream` (stderr) and, if given, every line to `log`."""

    def __init__(self, stream: TextIO | None = None, log: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._log = log
        self._live = self._stream.isatty()
        self._pending = False

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._pending:
            self._stream.write("\n")
            self._pending = False
        self._stream.write(f"{line}\n")
        self._stream.flush()
        self._keep(line)

    def step(self, line: str) -> None:
        """The state of things: on a terminal it replaces the former one."""
        if not self._live:
            self.say(line)
            return
        self._stream.write(f"\r\x1b[2K{line}")
        self._stream.flush()
        self._pending = True
        self._keep(line)

    def end(self) -> None:
        """Leave the line."""
        if self._pending:
            self._stream.write("\n")
            self._pending = False

    def _keep(self, line: str) -> None:
        if self._log is not None:
            # A log that cannot be written, on a full disk for one, must not end the run.
            with contextlib.suppress(OSError):
                self._log.write(f"{line}\n")
                self._log.flush()


class Follower:
    """A thread that reads a run's journals as they grow and tells of it.

    `tick(step, attempts)` is called at least every two seconds, with the furthest step and the number
    of attempts.
    """

    def __init__(
        self,
        files: RunFiles,
        reporter: Reporter,
        *,
        total: int,
        every: int,
        tick: Callable[[int, int], None],
    ) -> None:
        self._files, self._reporter, self._tick = files, reporter, tick
        self._total, self._every = total, every
        self._step_lines = Tail(files.storage, files.metrics)
        self._attempt_lines = Tail(files.storage, files.attempts)
        self._furthest = self._attempts = 0
        self._recent = deque(self._gain()[0], maxlen=_RECENT)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="train-progress", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        self._reporter.end()

    def _run(self) -> None:
        beat = 0
        while not self._done.wait(_TICK_S):
            beat += 1
            try:
                if self._look() or beat % _TICKS_BETWEEN_SIGNS == 0:
                    self._tick(self._furthest, self._attempts)
            except LinnetError as error:
                self._reporter.say(f"warning: {error.message}")

    def _look(self) -> bool:
        steps, attempts = self._gain()
        for record in attempts:
            for sentence in record.skipped:
                self._reporter.say(f"skipped: {sentence}")
            self._reporter.say(attempt_line(record))
        for step in steps:
            self._recent.append(step)
            if step.step % self._every == 0 or step.step == self._total:
                self._reporter.step(step_line(self._files.run, self._recent, self._total))
        return bool(steps or attempts)

    def _gain(self) -> tuple[list[StepRecord], list[AttemptRecord]]:
        steps = [StepRecord.model_validate(line) for line in self._step_lines.read()]
        attempts = known_attempts(self._attempt_lines.read())
        self._furthest = max([self._furthest, *(step.step for step in steps)])
        self._attempts += len(attempts)
        return steps, attempts
