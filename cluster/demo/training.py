"""Steps of the training: start it, kill one worker, see it recover, and what the run says of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from cluster.demo.client import MODEL
from cluster.demo.figures import LossPoint, Mark, TrainFigures
from cluster.demo.state import Demo
from cluster.demo.teller import Moving
from cluster.errors import LinnetError, NotFoundError, TimedOutError
from cluster.storage import Storage

SPEC = "train_jobs/smollm2_sentiment.yaml"
STEPS, SAVE_STEPS, WORKERS = 40, 5, 2
KILL_AFTER_STEP = 2 * SAVE_STEPS + 2
_STUCK_S = 240.0
_PERIOD_S = 0.2


def train_with_a_kill(demo: Demo) -> None:
    """Train; SIGKILL rank 1 between two checkpoints; return once the last step is trained."""
    demo.run = time.strftime("demo-%Y%m%d-%H%M%S", time.localtime(demo.started_at))
    demo.training = demo.commands.start_linnet("train", "run", SPEC, *_overrides(demo), "--yes", quiet=True)
    _follow(demo, lambda points: is_time_to_kill(points, KILL_AFTER_STEP, SAVE_STEPS))
    _kill_a_worker(demo)
    _follow(demo, has_recovered)
    demo.killed_after_step = max(point.step for point in demo.losses if point.at <= demo.kills[0].at)
    new = demo.losses[-1]
    demo.teller.say(
        f"{new.at - demo.kills[0].at:.1f} s after the kill step {new.step} was new (attempt {new.attempt})"
    )
    _follow(demo, lambda points: points[-1].step >= STEPS)
    demo.teller.say(f"step {STEPS} trained, loss {demo.losses[0].loss:.3f} -> {demo.losses[-1].loss:.3f}")


def collect_run(demo: Demo) -> None:
    """Wait for the versions that the run publishes, and take its own figures.

    Raises LinnetError `demo.not_recovered` when the run knows of no recovery.
    """
    with demo.teller.moving("publishing: merging, golden answers by transformers"):
        demo.training.output()
    told = demo.commands.linnet("train", "show", demo.run)
    demo.train = figures(demo, told)
    demo.teller.say(
        f"published {', '.join(told['published'])}; {demo.train.steps_redone} steps trained again, "
        f"{demo.train.recovered_s:.1f} s from the last step before the kill to the first new one"
    )


def figures(demo: Demo, told: dict[str, Any]) -> TrainFigures:
    """From what `train show` tells. Raises LinnetError `demo.not_recovered`."""
    recoveries = [attempt for attempt in told["attempts"] if attempt["cause"] == "recovery"]
    if len(recoveries) < len(demo.kills) or told["recovered_s"] is None:
        raise LinnetError(
            f"Workers killed: {len(demo.kills)}; recoveries that {demo.run} tells of: {len(recoveries)}.",
            code="demo.not_recovered",
            hint=f"`linnet train show {demo.run}` and `linnet train logs {demo.run}` tell what happened.",
        )
    return TrainFigures(
        run=demo.run,
        steps=told["step"],
        workers=demo.workers,
        kills=len(demo.kills),
        killed_after_step=demo.killed_after_step,
        steps_redone=told["steps_redone"],
        recovered_s=told["recovered_s"],
        first_loss=demo.losses[0].loss,
        last_loss=demo.losses[-1].loss,
    )


def is_time_to_kill(points: Sequence[LossPoint], after_step: int, save_steps: int) -> bool:
    """Whether there is a checkpoint to go back to, and work since then that will be lost."""
    return points[-1].step >= after_step and points[-1].step % save_steps != 0


def has_recovered(points: Sequence[LossPoint]) -> bool:
    """Whether an attempt after the first has trained a step that none before it had."""
    newest = points[-1]
    before = [point.step for point in points if point.attempt < newest.attempt]
    return bool(before) and newest.step > max(before)


def read_losses(storage: Storage, run: str) -> list[LossPoint]:
    """The whole lines of a run's metrics.jsonl, in order of writing; none before the first."""
    try:
        text = storage.read_bytes(f"runs/{run}/metrics.jsonl").decode()
    except NotFoundError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            found.append(LossPoint(**{name: told[name] for name in LossPoint.model_fields}))
    return found


def _overrides(demo: Demo) -> list[str]:
    return [
        f"run={demo.run}",
        f"model={MODEL}:{demo.base}",
        f"max_steps={STEPS}",
        f"save_steps={SAVE_STEPS}",
        f"num_workers={WORKERS}",
        f"publish.version={demo.tuned}",
        f"publish.adapter_version={demo.tuned}-adapter",
    ]


def _follow(demo: Demo, done: Callable[[Sequence[LossPoint]], bool]) -> None:
    """Read the metrics until `done`; raises the run's error, or TimedOutError when no step comes."""
    storage = Storage(demo.settings.root)
    progressed, seen = time.monotonic(), -1
    with demo.teller.moving("starting 2 workers") as move:
        while True:
            running = demo.training.running
            demo.losses = read_losses(storage, demo.run)
            if len(demo.losses) != seen:
                seen, progressed = len(demo.losses), time.monotonic()
                _tell(demo.losses, move)
            if demo.losses and done(demo.losses):
                return
            if not running:
                raise _ended_early(demo)
            if time.monotonic() - progressed > _STUCK_S:
                raise TimedOutError(
                    f"The run {demo.run} made no step for {_STUCK_S:g} s.",
                    code="demo.training_stuck",
                    hint=f"`linnet train logs {demo.run}` has the workers' logs.",
                )
            time.sleep(_PERIOD_S)


def _tell(points: Sequence[LossPoint], move: Moving) -> None:
    if points:
        move(f"step {points[-1].step}/{STEPS}  loss {points[-1].loss:.4f}")


def _ended_early(demo: Demo) -> LinnetError:
    demo.training.result()
    return LinnetError(
        f"The run {demo.run} ended after step {demo.losses[-1].step if demo.losses else 0} of {STEPS}.",
        code="demo.training_ended",
        hint=f"`linnet train logs {demo.run}` has the workers' logs.",
    )


def _kill_a_worker(demo: Demo) -> None:
    workers = demo.commands.linnet("train", "show", demo.run)["workers"]
    victim = next((worker["pid"] for worker in workers if worker["rank"] == 1), None)
    if victim is None or not belongs(victim, demo.guard_pid):
        raise LinnetError(
            f"The run {demo.run} names no worker of rank 1 below the cluster of this demo: {workers}.",
            code="demo.no_worker",
        )
    os.kill(victim, signal.SIGKILL)
    demo.kills.append(Mark(name="worker killed", at=time.time()))
    demo.losses = read_losses(Storage(demo.settings.root), demo.run)
    demo.workers, demo.killed_after_step = len(workers), demo.losses[-1].step
    demo.teller.say(
        f"kill -9 {victim}: rank 1 of {demo.workers} workers, after step {demo.killed_after_step} "
        f"(last checkpoint: step {demo.killed_after_step // SAVE_STEPS * SAVE_STEPS})"
    )


def belongs(pid: int, ancestor: int) -> bool:
    """Whether a process lives and descends from `ancestor`."""
    try:
        return ancestor in {parent.pid for parent in psutil.Process(pid).parents()}
    except psutil.NoSuchProcess:
        return False
